"""Settings of the text and image encoders."""

import dataclasses
import re
from typing import ClassVar, Literal

from mmctr_pipeline.plugins import PluggableSettings
from mmctr_pipeline.settings import Precision, Settings, setting

_PRECISION_HELP = (
    "dtype of the forward pass; auto is bfloat16 where the hardware multiplies in it, else float32"
)


_COMPUTE_HELP = (
    "local: encode in this process; ray: on the Ray cluster that RAY_ADDRESS names, by default on "
    "this machine, one process for each GPU or else for each CPU; needs the extra ray"
)


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig(PluggableSettings):
    """Encoder of item titles."""

    SELECTOR: ClassVar = "source"
    METHODS: ClassVar = ("encode",)

    source: Literal["sentence_transformers", "open_clip", "given"] = setting(
        "sentence_transformers",
        "sentence_transformers or open_clip (a text tower) encodes the titles; given reads vectors "
        "from a column of the data; in a preset also a class of your own, my_package.MyEncoder",
    )
    model: str = setting(
        "all-MiniLM-L6-v2",
        "a sentence-transformers model: a local folder, a hub id, or all-MiniLM-L6-v2, "
        "which is installed with the pipeline; for source open_clip a model as for images",
    )
    template: str = setting("{title}", "text to encode; {tags} is replaced by the item's tag names")
    tag_names: str = setting(
        "",
        "CSV or parquet file with columns tag_id and tag_name, for templates with {tags}; relative "
        "paths start from the folder in which the pipeline runs",
    )
    column: str = setting("txt_emb_BERT", "column of item_feature or item_info, for source given")
    precision: Precision = setting("auto", _PRECISION_HELP)
    batch_tokens: int = setting(
        0,
        "maximum tokens per forward pass; 0 is 1,024 on a CPU and 65,536 on a GPU",
        ge=0,
        le=1 << 24,
    )
    compute: Literal["local", "ray"] = setting("local", _COMPUTE_HELP)

    @property
    def encodes(self) -> bool:
        """True if an encoder runs on the titles; given vectors need none."""
        return self.source != "given"


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig(PluggableSettings):
    """Encoder of cover images."""

    SELECTOR: ClassVar = "source"
    METHODS: ClassVar = ("encode",)

    source: Literal["open_clip", "given", "none"] = setting(
        "open_clip",
        "open_clip encodes the images; given reads vectors from a column of the data; with none, "
        "no item has an image vector; in a preset also a class of your own, my_package.MyEncoder",
    )
    model: str = setting(
        "RN50/openai",
        "an open_clip model: NAME/WEIGHTS, NAME/FILE with a local checkpoint, hf-hub:REPOSITORY, "
        "local-dir:FOLDER, or tiny-clip, which ships with the pipeline",
    )
    images_url: str = setting(
        "",
        "URL of a folder of covers named {item_id}.jpg, such as s3://bucket/covers, to read in the "
        "place of item_images; needs the client of its store, for S3 the extra s3",
    )
    column: str = setting(
        "img_emb_CLIPRN50", "column of item_feature or item_info, for source given"
    )
    precision: Precision = setting("auto", _PRECISION_HELP)
    batch_size: int = setting(
        0,
        "images per forward pass; 0 is 8 on a CPU, and 128 on a GPU or for an own class",
        ge=0,
        le=65536,
    )
    compute: Literal["local", "ray"] = setting("local", _COMPUTE_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images_url and not re.fullmatch(r"[a-z0-9]+://[^@?#]+", self.images_url):
            raise self.invalid(
                "images_url",
                "is not a URL such as s3://bucket/covers, or has @, ? or #, which may belong to a "
                "password: give credentials as the client of the store expects them",
            )

    @property
    def encodes(self) -> bool:
        """True if an encoder runs on the images."""
        return self.source not in ("given", "none")


@dataclasses.dataclass(frozen=True)
class EncodersConfig(Settings):
    """The section `encoders` of a preset."""

    text: TextEncoderConfig = dataclasses.field(default_factory=TextEncoderConfig)
    image: ImageEncoderConfig = dataclasses.field(default_factory=ImageEncoderConfig)
