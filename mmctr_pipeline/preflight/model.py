"""Build the preset's model on small tables: can it be built, and how large will it be?"""

from mmctr_pipeline.models.config import FeatureModelSettings, ModelConfig
from mmctr_pipeline.preflight.data import TableSizes
from mmctr_pipeline.settings import SettingsError

_USER_ROWS, _ITEM_ROWS, _TAG_ROWS = 1110, 1120, 1130
"""Rows of the small tables. No layer has such a width, so the first dimension of a weight tells
which table it is; tables may have a few rows more."""
_MOST_MORE = 10


def count_weights(config: ModelConfig, dims: dict[str, int], sizes: TableSizes) -> int:
    """Return the number of weights of a model for tables of these sizes.

    Raises `SettingsError` if the model cannot be built.

    Parameters
    ----------
    config
        Settings of the model.
    dims
        Dimensions of the text, image and fused vectors.
    sizes
        Rows of the tables.
    """
    import torch

    from mmctr_pipeline.models.batch import FeatureSpec
    from mmctr_pipeline.models.catalogue import build_model
    from mmctr_pipeline.training.device import seeded

    spec = FeatureSpec(
        n_users=_USER_ROWS,
        n_items=_ITEM_ROWS,
        n_tags=_TAG_ROWS,
        vector_dim=max(dims["fused"], 1),
        **{f"{kind}_dim": dims[kind] for kind in config.modalities},
    )
    try:
        with seeded(0, torch.device("cpu")):
            model = build_model(config, spec)
    except (RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{config.name} cannot be built: {error}. Fix: change the section model"
        ) from error
    rows = {_USER_ROWS: sizes.n_users, _ITEM_ROWS: sizes.n_items, _TAG_ROWS: sizes.n_tags}
    count = 0
    for weight in model.parameters():
        length = len(weight) if weight.dim() else 1
        table = next((row for row in rows if 0 <= length - row < _MOST_MORE), None)
        factor = 1.0 if table is None else (rows[table] + length - table) / length
        count += round(weight.numel() * factor)
    return count


def keeps_co_interactions(config: ModelConfig) -> bool:
    """Return whether the model file keeps counts of the train rows."""
    return isinstance(config, FeatureModelSettings) and getattr(config, "co_interactions", False)
