"""Settings of models of the user's own, from the class that their name leads to."""

import dataclasses
import functools
import typing
from typing import Any, ClassVar, Literal

from mmctr_pipeline.plugins import plugin_class
from mmctr_pipeline.settings import Settings, SettingsError


@dataclasses.dataclass(frozen=True)
class OwnModelSettings(Settings):
    """Settings of a user's own model: `plugin_settings` derives from its `Config` and from this."""

    max_history: ClassVar[int | None]
    modalities: ClassVar[tuple[str, ...]]

    name: str = ""


def plugin_settings(name: str, owner: str) -> type[Any]:
    """Return the settings class of a user's own model: its `Config`, with its name as a setting.

    Raises `SettingsError` if the class has no `Config`, or one that is no `Settings`, and the
    errors of `plugin_class`.
    """
    config = getattr(plugin_class(name, owner), "Config", None)
    if not (isinstance(config, type) and issubclass(config, Settings)):
        raise SettingsError(
            f"{owner}: {name} needs a class attribute Config, a dataclass that extends Settings "
            "(docs/own_model.md)"
        )
    return _named(typing.cast("Any", config), name)


@functools.cache
def _named(config: Any, name: str) -> type[Any]:
    """Return `config` with the setting `name`, which has this value."""
    fields = [("name", Literal[name], dataclasses.field(default=name))]
    bases = (config, OwnModelSettings)
    return dataclasses.make_dataclass(config.__name__, fields, bases=bases, frozen=True)
