"""Find out and log which activation a CLIP model computes: the weights do not show it.

CLIP models use GELU or QuickGELU; OpenAI trained all of its own with QuickGELU. With the wrong
activation the vectors are wrong, and no error shows it.
"""

import logging
from pathlib import Path

from mmctr_pipeline.encoders.model_files import is_torchscript, read_json
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

QUICK = "-quickgelu"
"""Suffix of open_clip's architectures that use QuickGELU instead of GELU."""


class ActivationError(SettingsError):
    """The architecture computes a different activation from the one the weights need."""


def is_quick_archive(name: str, checkpoint: Path) -> bool:
    """Return whether a local checkpoint is one of OpenAI's archives, which need QuickGELU.

    For other files, logs the activation of the architecture `name` if open_clip knows a variant
    with the other activation. Raises `ActivationError` if the file's name says that the weights are
    OpenAI's, but the architecture uses GELU.
    """
    import open_clip

    if is_torchscript(checkpoint):
        return True
    is_quick = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    other = name.removesuffix(QUICK) if is_quick else name + QUICK
    if other not in open_clip.list_models():
        return False
    file = checkpoint.name
    if not is_quick and "openai" in file.lower():
        raise ActivationError(
            f"image model {name}/{file}: OpenAI's weights were trained with QuickGELU, and {name} "
            f"computes GELU. Fix: use {other}/{file}; or, if these weights were trained further "
            "with GELU, rename the file, so that its name lacks openai"
        )
    activation, trained_with = ("QuickGELU", "GELU") if is_quick else ("GELU", "QuickGELU")
    logger.warning(
        f"image model {name}/{file} computes {activation}. If its weights were trained with "
        f"{trained_with}, use {other}/{file}: with the wrong activation the vectors are wrong"
    )
    return False


def warn_of_openai_folder(name: str, folder: Path) -> None:
    """Log a warning if a folder named after OpenAI has a definition with GELU."""
    config = read_json(folder / "open_clip_config.json")
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    if "openai" in name.lower() and not config.get("quick_gelu"):
        logger.warning(
            f"image model {name} computes GELU, as its open_clip_config.json says, but OpenAI's "
            "weights were trained with QuickGELU. If these are OpenAI's, add quick_gelu: true to "
            "model_cfg"
        )
