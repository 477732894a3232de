"""Build the preset's model on tables of a few rows: can it be built, and how large will it be?"""

from mmctr_pipeline.models.config import FeatureModelSettings, ModelConfig
from mmctr_pipeline.preflight.data import TableSizes

_FEW = 2


def count_weights(config: ModelConfig, dims: dict[str, int], sizes: TableSizes) -> int:
    """Return the number of weights of a model for tables of these sizes.

    The model is built on tables of two rows, and once more with a row more in each table, as the
    number of weights is linear in the rows. Raises the errors of `build_model`.

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

    def built(users: int, items: int, tags: int) -> int:
        widths = {f"{kind}_dim": dims[kind] for kind in config.modalities}
        spec = FeatureSpec(
            n_users=users, n_items=items, n_tags=tags, vector_dim=max(dims["fused"], 1), **widths
        )
        with seeded(0, torch.device("cpu")):
            model = build_model(config, spec)
        return sum(parameter.numel() for parameter in model.parameters())

    least = built(_FEW, _FEW, _FEW)
    per_user = built(_FEW + 1, _FEW, _FEW) - least
    per_item = built(_FEW, _FEW + 1, _FEW) - least
    per_tag = built(_FEW, _FEW, _FEW + 1) - least
    return least + per_user * sizes.n_users + per_item * sizes.n_items + per_tag * sizes.n_tags


def keeps_co_interactions(config: ModelConfig) -> bool:
    """Return whether the model file keeps counts of the train rows."""
    return isinstance(config, FeatureModelSettings) and getattr(config, "co_interactions", False)
