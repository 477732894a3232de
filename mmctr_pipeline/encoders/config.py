"""Settings of the text and image encoders."""

import dataclasses
from typing import Literal

from mmctr_pipeline.settings import Precision, Settings, setting

_PRECISION_HELP = (
    "number format of the forward pass; auto is bfloat16 where the hardware multiplies in it, "
    "else float32"
)


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig(Settings):
    """How item titles become vectors."""

    source: Literal["sentence_transformers", "open_clip", "given"] = setting(
        "sentence_transformers",
        "sentence_transformers and open_clip (a text tower) encode the titles; given takes a "
        "column of the data as it is",
    )
    model: str = setting(
        "all-MiniLM-L6-v2",
        "a sentence-transformers model: a local folder, a hub id, or all-MiniLM-L6-v2, "
        "which is installed with the pipeline; with source open_clip a model as for images",
    )
    template: str = setting(
        "{title}", "what is encoded; '{title} {tags}' adds the names of the item's tags"
    )
    tag_names: str = setting(
        "",
        "CSV or parquet file with columns tag_id and tag_name, for templates with {tags}; a path "
        "that is not absolute counts from the folder in which the pipeline runs",
    )
    column: str = setting(
        "txt_emb_BERT", "the column of item_feature or item_info, when source is given"
    )
    precision: Precision = setting("auto", _PRECISION_HELP)
    batch_tokens: int = setting(
        0, "tokens per forward pass at most; 0 is 1,024 on a CPU and 65,536 on a GPU", ge=0
    )


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig(Settings):
    """How cover images become vectors."""

    source: Literal["open_clip", "given", "none"] = setting(
        "open_clip",
        "open_clip encodes the images; given takes a column of the data as it is; "
        "none masks every item",
    )
    model: str = setting(
        "RN50/openai",
        "an open_clip model: NAME/WEIGHTS, hf-hub:REPOSITORY, local-dir:FOLDER, or tiny-clip, "
        "which ships with the pipeline",
    )
    column: str = setting(
        "img_emb_CLIPRN50", "the column of item_feature or item_info, when source is given"
    )
    precision: Precision = setting("auto", _PRECISION_HELP)
    batch_size: int = setting(
        0, "images per forward pass; 0 is 8 on a CPU and 128 on a GPU", ge=0, le=65536
    )


@dataclasses.dataclass(frozen=True)
class EncodersConfig(Settings):
    """The section `encoders` of a preset."""

    text: TextEncoderConfig = dataclasses.field(default_factory=TextEncoderConfig)
    image: ImageEncoderConfig = dataclasses.field(default_factory=ImageEncoderConfig)
