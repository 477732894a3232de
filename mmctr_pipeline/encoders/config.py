"""Settings of the text and image encoders."""

import dataclasses

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig(Settings):
    """How item titles become vectors."""

    source: str = setting(
        "sentence_transformers",
        "sentence_transformers encodes the titles; given takes a column of the data as it is",
        choices=("sentence_transformers", "given"),
    )
    model: str = setting(
        "all-MiniLM-L6-v2",
        "a sentence-transformers model: a local folder, a hub id, or all-MiniLM-L6-v2, "
        "which is installed with the pipeline",
    )
    column: str = setting(
        "txt_emb_BERT", "the column of item_feature or item_info, when source is given"
    )
    batch_size: int = setting(32, "titles per forward pass at most", ge=1, le=65536)


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig(Settings):
    """How cover images become vectors."""

    source: str = setting(
        "open_clip",
        "open_clip encodes the images; given takes a column of the data as it is; "
        "none masks every item",
        choices=("open_clip", "given", "none"),
    )
    model: str = setting(
        "RN50/openai",
        "an open_clip model: NAME/WEIGHTS, hf-hub:REPOSITORY, local-dir:FOLDER, or tiny-clip, "
        "which ships with the pipeline",
    )
    column: str = setting(
        "img_emb_CLIPRN50", "the column of item_feature or item_info, when source is given"
    )
    batch_size: int = setting(64, "images per forward pass", ge=1, le=65536)


@dataclasses.dataclass(frozen=True)
class EncodersConfig(Settings):
    """The section `encoders` of a preset."""

    text: TextEncoderConfig = dataclasses.field(default_factory=TextEncoderConfig)
    image: ImageEncoderConfig = dataclasses.field(default_factory=ImageEncoderConfig)
