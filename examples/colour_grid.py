"""A custom image encoder: the mean colours of a grid of squares."""

import dataclasses

import numpy as np
import torch

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class ColourGridSettings(Settings):
    n_cells: int = setting(8, "squares along each side", ge=1, le=32)


class ColourGrid:
    Config = ColourGridSettings
    size = 64

    def __init__(self, config: ColourGridSettings, device: torch.device) -> None:
        self._n_cells, self._device = config.n_cells, device

    def encode(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        pixels_BCHW = torch.from_numpy(pixels_BHWC).to(self._device).permute(0, 3, 1, 2) / 255
        grid_BCNN = torch.nn.functional.adaptive_avg_pool2d(pixels_BCHW, self._n_cells)
        return 1 + grid_BCNN.flatten(1).cpu().numpy()  # 1, as zeros would mean no image
