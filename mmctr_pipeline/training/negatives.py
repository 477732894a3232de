"""In-batch negatives: for data whose negatives were drawn at random, other draws in every step."""

import dataclasses

import torch

from mmctr_pipeline.models.batch import Batch


def in_batch_negatives(batch: Batch, share: float) -> Batch:
    """Return the batch with other targets in `share` of its rows without a click.

    Such a row takes the target, levels included, of a random row of the batch, clicked there or
    not, and keeps its user and history. Where negatives are draws from the catalogue, and nobody
    saw and passed over them, another draw does as well: with ever new ones no model learns the few
    by heart, and since clicked targets are drawn too, none learns by heart which items were clicked
    how often. Rows are chosen by torch's random state; the device need not be waited for.
    """
    assert batch.label_B is not None
    draw_2B = torch.rand(2, len(batch), device=batch.label_B.device)
    own_B = torch.arange(len(batch), device=batch.label_B.device)
    is_replaced_B = (batch.label_B == 0) & (draw_2B[0] < share)
    source_B = torch.where(is_replaced_B, draw_2B[1].argsort(), own_B)
    return dataclasses.replace(
        batch,
        item_id_B=batch.item_id_B[source_B],
        likes_level_B=batch.likes_level_B[source_B],
        views_level_B=batch.views_level_B[source_B],
    )
