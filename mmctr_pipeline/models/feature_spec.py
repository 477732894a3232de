"""The sizes that a model needs to know of the data."""

import dataclasses

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class FeatureSpec(Settings):
    """Table sizes (ids run from 0, which is padding) and the width of the item vectors."""

    n_users: int = setting(2, "rows of the user table: largest user id plus one", ge=1)
    n_items: int = setting(2, "rows of the item table: largest item id plus one", ge=1)
    n_levels: int = setting(11, "values of likes_level and views_level", ge=1)
    vector_dim: int = setting(128, "dimensions of the fused item vectors", ge=1)
    n_tags: int = setting(1, "rows of the tag table: largest tag id plus one", ge=1)
    text_dim: int = setting(0, "dimensions of the title vectors; 0 where there are none", ge=0)
    image_dim: int = setting(0, "dimensions of the cover vectors; 0 where there are none", ge=0)

    def dim_of(self, kind: str) -> int:
        """Return the dimensions of `fused`, `text` or `image` vectors; 0 where there are none."""
        return {"fused": self.vector_dim, "text": self.text_dim, "image": self.image_dim}[kind]
