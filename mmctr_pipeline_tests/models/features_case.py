"""Features with fitted statistics and random tables, and batches of chosen items."""

import dataclasses
import itertools

import torch

from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.config import FeatureConfig
from mmctr_pipeline.models.features import FeatureEmbedding, Features
from mmctr_pipeline_tests.models.zoo import SPEC, random_train_rows

NOTHING = FeatureConfig(
    user_id=False,
    item_id=False,
    item_tags=False,
    item_levels=False,
    context_levels=False,
    fused_vectors=False,
    text_vectors=False,
    image_vectors=False,
    embedding_dim=5,
    level_embedding_dim=3,
)
EVERYTHING = dataclasses.replace(
    NOTHING,
    **{
        field.name: True
        for field in dataclasses.fields(NOTHING)
        # `vector_projection` changes how vectors are read; it is not itself a feature.
        if getattr(NOTHING, field.name) is False and field.name != "vector_projection"
    },
)
UNKNOWN_ITEM, UNKNOWN_USER = SPEC.n_items, SPEC.n_users


def fitted(config: FeatureConfig, items: ItemFeatures) -> FeatureEmbedding:
    """Return fitted features in evaluation mode, with random weights in all rows but the first."""
    features = FeatureEmbedding(config, SPEC)
    features.fit(items, *random_train_rows())
    with torch.no_grad():
        for parameter in features.parameters():
            parameter[1:] = torch.randn_like(parameter[1:])
    return features.eval()


def batch_of(items: ItemFeatures, targets: list[int], histories: list[list[int]]) -> Batch:
    lengths = torch.tensor([len(history) for history in histories])
    ones_B = torch.ones(len(targets), dtype=torch.int64)
    return Batch(
        user_id_B=ones_B,
        item_id_B=torch.tensor(targets),
        likes_level_B=ones_B,
        views_level_B=ones_B,
        history_T=torch.tensor(list(itertools.chain(*histories)), dtype=torch.int64),
        history_offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        items=items,
    )


def all_item_features(output: Features) -> torch.Tensor:
    """Return the features of the targets, followed by those of the history items."""
    return torch.cat([output.item_BD, output.history_TD])


def ids_of(batch: Batch) -> list[int]:
    return [*batch.item_id_B.tolist(), *batch.history_T.tolist()]


def standardised(items: ItemFeatures, kind: str, item: int) -> torch.Tensor:
    """Return an item's vector, standardised over the items that have one; zeros if it has none."""
    vectors_ID, present_I = items.vectors_of(kind)
    if not present_I[item]:
        return torch.zeros(vectors_ID.shape[1])
    real = vectors_ID[present_I].double().numpy()
    return torch.from_numpy((vectors_ID[item].numpy() - real.mean(0)) / real.std(0)).float()
