"""Check the run config files (option `-c`) of a `dagster` command when it loads the definitions.

Dagster reads these files itself. If a key is set twice, it silently uses the last value. It checks
the bounds of a value only when the asset starts, which may be hours later.
"""

import glob
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmctr_pipeline.defs.config import ASSET_SECTIONS, deployment_preset, require_valid
from mmctr_pipeline.models.config import MODEL_CONFIGS
from mmctr_pipeline.presets.yaml_file import read_yaml
from mmctr_pipeline.settings import Settings

_COMMANDS = ("dagster", "dg")


def check_run_config_files(arguments: Sequence[str] | None = None) -> None:
    """Check the files that a command line names, by default the command line of this process.

    Raises `SettingsError`, which names the file and the line or the setting.
    """
    for path in _config_files(sys.argv if arguments is None else arguments):
        ops = read_yaml(path).get("ops")
        for asset, values in ops.items() if isinstance(ops, Mapping) else ():
            config = values.get("config") if isinstance(values, Mapping) else None
            if asset in ASSET_SECTIONS and isinstance(config, Mapping):
                _check_asset(asset, config, str(path))


def _config_files(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the files after `-c` or `--config` of a `dagster` command, none for other commands."""
    command = Path(arguments[0]) if arguments else Path()
    if command.name not in _COMMANDS and command.parts[-2:] != ("dagster", "__main__.py"):
        return
    for option, next_argument in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = option.partition("=")
        if name in ("-c", "--config"):
            yield from map(Path, sorted(glob.glob(value if equals else next_argument)))


def _check_asset(asset: str, config: Mapping[str, Any], where: str) -> None:
    """Check the settings of one asset. Dagster itself checks the structure of the sections."""
    for name, section in ASSET_SECTIONS[asset].items():
        values = config.get(name)
        settings: Settings = operator.attrgetter(section.path)(deployment_preset())
        if section.path == "model":
            # In Dagster's config, the name of the model is the key above its settings.
            choice = list(values.items()) if isinstance(values, Mapping) else []
            if len(choice) != 1 or choice[0][0] not in MODEL_CONFIGS:
                continue
            chosen, values = choice[0]
            if chosen != getattr(settings, "name", None):
                settings = MODEL_CONFIGS[chosen]()
        if isinstance(values, Mapping):
            require_valid(settings, values, where, section.path)
