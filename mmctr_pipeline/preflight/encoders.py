"""Check that the encoders of a preset can run: models, given columns, template, covers."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.id_columns import read_ids, to_numpy
from mmctr_pipeline.data.items import file_with_vectors
from mmctr_pipeline.data.schemas import VECTOR_FILE_COLUMNS
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.data.validation import Block, DataError, DataNotFoundError
from mmctr_pipeline.encoders.config import EncodersConfig, TextEncoderConfig
from mmctr_pipeline.encoders.text.titles import TemplateError, read_tag_names, template_fields
from mmctr_pipeline.plugins import is_plugin
from mmctr_pipeline.preflight.findings import Finding, found
from mmctr_pipeline.presets.preset import ChecksConfig

_UNKNOWN_DIM = 1024
"""Dimensions that the estimates assume for a model whose definition does not say."""


class EncoderChecks:
    """Checks of the encoders of one preset.

    `dims` has the dimensions of the vectors of `text` and `image`: 0 if there are none, and a guess
    until `vectors` has found them.
    """

    def __init__(self, encoders: EncodersConfig, layout: DataLayout | None) -> None:
        self._encoders, self._layout = encoders, layout
        self.dims = {
            kind: 0 if getattr(encoders, kind).source == "none" else _UNKNOWN_DIM
            for kind in ("text", "image")
        }

    def template(self) -> Iterator[Finding]:
        """Yield whether the template can be filled in."""
        text = self._encoders.text
        if not text.encodes:
            return
        yield found(
            "template",
            "encoders.text.template",
            lambda: _template(text),
            "write it with {title} and {tags} only",
        )
        if text.tag_names:
            path = Path(text.tag_names).expanduser()
            where = "encoders.text.tag_names"
            yield found("tag names", where, lambda: f"{len(read_tag_names(path)):,} in {path}")

    def vectors(self, kinds: tuple[str, ...]) -> Iterator[Finding]:
        """Yield whether the vectors of some kinds, `text` and `image`, can be made."""
        models: dict[tuple[bool, str], list[str]] = {}
        for kind in kinds:
            encoder = getattr(self._encoders, kind)
            if encoder.source == "given":
                yield self._given(kind, encoder.column)
            elif is_plugin(encoder.source):  # imported, and checked, with the preset
                yield Finding("ok", f"{kind} encoder", f"encoders.{kind}.source", encoder.source)
            elif encoder.source != "none":
                is_clip = encoder.source == "open_clip"
                models.setdefault((is_clip, encoder.model), []).append(kind)
        for (is_clip, model), of_kinds in models.items():
            yield self._model(is_clip, model, of_kinds)

    def covers(self, limits: ChecksConfig) -> Iterator[Finding]:
        """Yield whether the covers are there, if they are encoded."""
        if not self._encoders.image.encodes:
            return
        if url := self._encoders.image.images_url:
            yield found("covers", url, lambda: _folder_at(url))
        elif self._layout is not None:
            layout, most = self._layout, limits.max_missing_images
            where = str(layout.images.folder if layout.images else layout.root)
            yield found("covers", where, lambda: _covers(layout, most))

    def _given(self, kind: str, column: str) -> Finding:
        def examine() -> str:
            if self._layout is None:
                return f"column {column}; the data were not found"
            path = file_with_vectors(self._layout, column)
            self.dims[kind] = _width(path, column)
            return f"column {column} of {path.name}, {self.dims[kind]} dimensions"

        return found(f"{kind} vectors", f"encoders.{kind}.column", examine)

    def _model(self, is_clip: bool, model: str, kinds: list[str]) -> Finding:
        def examine() -> str:
            dim, source = _clip(model) if is_clip else _sentence_model(model)
            self.dims.update(dict.fromkeys(kinds, dim))
            return f"{model} ({source})"

        where = ", ".join(f"encoders.{kind}.model" for kind in kinds)
        return found(f"{' and '.join(kinds)} encoder", where, examine, "name a model that is there")


def _template(config: TextEncoderConfig) -> str:
    if "tags" in template_fields(config.template) and not config.tag_names:
        raise TemplateError(
            f"the template {config.template!r} has tags, which are numbers in the data. Fix: set "
            "encoders.text.tag_names to a CSV or parquet file with columns tag_id and tag_name"
        )
    return repr(config.template)


def _width(path: Path, column: str) -> int:
    """Return the dimensions of a vector column, read from its first rows."""
    with open_table(path, VECTOR_FILE_COLUMNS) as file:
        batches = file.iter_batches(1024, [column])
        lengths = pc.list_value_length(next(batches).column(column))
        return int(pc.max(lengths).as_py() or _UNKNOWN_DIM)


def _sentence_model(model: str) -> tuple[int, str]:
    """Return dimensions and source of a sentence-transformers model; raises if it is unusable."""
    from mmctr_pipeline.encoders.locate import locate_text_model
    from mmctr_pipeline.encoders.model_files import read_json, require_text_model

    located = locate_text_model(model)
    require_text_model(located.folder)
    dim = _UNKNOWN_DIM
    for path in (located.folder / "config.json", located.folder / "0_Transformer" / "config.json"):
        if path.is_file():
            dim = int(read_json(path).get("hidden_size", dim))
    return dim, located.source


def _clip(model: str) -> tuple[int, str]:
    """Return dimensions and source of an open_clip model; raises if it is unusable."""
    from mmctr_pipeline.encoders.locate import locate_image_model
    from mmctr_pipeline.encoders.model_files import read_json, require_weights

    located = locate_image_model(model)
    folder = Path(located.architecture.removeprefix("local-dir:"))
    if located.weights is None:
        definition = read_json(folder / "open_clip_config.json")
        definition = definition.get("model_cfg", definition)
        weights = sorted(folder.glob("*.safetensors"))
    else:
        import open_clip

        definition = open_clip.get_model_config(located.architecture) or {}
        weights = [located.weights]
    for path in weights:
        if path.suffix not in (".npz", ".npy"):
            require_weights(path)
    return int(definition.get("embed_dim", _UNKNOWN_DIM)), located.source


def _folder_at(url: str) -> str:
    from mmctr_pipeline.data.image_url import require_folder

    require_folder(url)
    return "the folder is there; its files are listed by the run"


def _covers(layout: DataLayout, max_missing: float) -> str:
    if layout.images is None:
        raise DataNotFoundError(
            f"{layout.root} has no folder of cover images. Fix: put the images into item_images as "
            "{item_id}.jpg, or use the preset text_only"
        )
    path = layout.item_feature
    with open_table(path, VECTOR_FILE_COLUMNS) as file:
        column: pa.Array = file.read(["item_id"]).column("item_id").combine_chunks()
    has_file = layout.images.match(to_numpy(read_ids(column, Block(path, VECTOR_FILE_COLUMNS[0]))))
    share = 1 - float(has_file.mean())
    if share > max_missing:
        raise DataError(
            layout.images.folder,
            f"{share:.1%} of the items have no cover file (limit {max_missing:.1%})",
            "add the files, or raise checks.max_missing_images",
        )
    return f"{1 - share:.1%} of {len(has_file):,} items have a file"
