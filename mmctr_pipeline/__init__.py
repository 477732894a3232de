"""Multimodal click-through-rate prediction: from titles, covers and click logs to a model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmctr_pipeline.serving.new_items import NewItem
    from mmctr_pipeline.serving.scorer import Scorer

__all__ = ["NewItem", "Scorer"]


def __getattr__(name: str) -> Any:
    """Import a public class when it is first used: importing torch takes seconds."""
    if name == "Scorer":
        from mmctr_pipeline.serving.scorer import Scorer

        return Scorer
    if name == "NewItem":
        from mmctr_pipeline.serving.new_items import NewItem

        return NewItem
    raise AttributeError(f"module 'mmctr_pipeline' has no attribute {name!r}")
