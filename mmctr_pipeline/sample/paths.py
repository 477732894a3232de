"""Where each file of a sample dataset is."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class SamplePaths:
    """The files of a world in the folder `root`, laid out as the nested MMCTR copies are."""

    root: Path

    @property
    def interactions(self) -> Path:
        """Folder of the splits and of `item_info.parquet`."""
        return self.root / "MicroLens_1M_x1"

    def split(self, name: str) -> Path:
        """`train`, `valid` or `test`."""
        return self.interactions / f"{name}.parquet"

    @property
    def item_info(self) -> Path:
        """Tags and one vector per item, row 0 being padding."""
        return self.interactions / "item_info.parquet"

    @property
    def item_feature(self) -> Path:
        """Titles, tags, levels and two vectors per item."""
        return self.root / "item_feature.parquet"

    @property
    def item_seq(self) -> Path:
        """All histories."""
        return self.root / "item_seq.parquet"

    @property
    def images(self) -> Path:
        """Folder of the covers, `{item_id}.jpg`."""
        return self.root / "item_images"

    @property
    def truth(self) -> Path:
        """Probability and label of each valid and test row, by position; not for the pipeline."""
        return self.root / "sample_truth.parquet"

    @property
    def item_truth(self) -> Path:
        """Category, style and caption of each item; not for the pipeline."""
        return self.root / "sample_items.parquet"

    @property
    def summary(self) -> Path:
        """Configuration, counts and best possible AUC; written last."""
        return self.root / "sample_world.json"
