"""Classes of the user's own packages, which settings name as `my_package.MyClass`."""

import dataclasses
import functools
import importlib
import os
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.settings import Settings, SettingsError, setting

VARIABLE = "MMCTR_PLUGINS"
"""Environment variable with the packages, separated by commas, whose code may be imported."""


OwnCode = tuple[str, list[str]]
"""The allowed packages, and the folders in which Python looks for modules."""


def own_code() -> OwnCode:
    """Return what this process may import, for `allow_own_code` in another one."""
    return os.environ.get(VARIABLE, ""), sys.path.copy()


def allow_own_code(code: OwnCode) -> None:
    """Let this process import the user's own packages that another process may import."""
    os.environ[VARIABLE], folders = code
    sys.path += [folder for folder in folders if folder not in sys.path]


def is_plugin(name: str) -> bool:
    """Return whether a name is that of a class in a user's own package."""
    return "." in name


def plugin_class(name: str, owner: str) -> Any:
    """Import a class by its dotted name; the current directory is searched last.

    Saved models name classes too, so nothing is imported unless MMCTR_PLUGINS allows its package.
    Raises `SettingsError` if it does not, or if there is no such class.

    Parameters
    ----------
    name
        Such as `my_package.models.MyModel`.
    owner
        The setting that names it, for messages.
    """
    package, (module, _, attribute) = name.partition(".")[0], name.rpartition(".")
    allowed = [each.strip() for each in os.environ.get(VARIABLE, "").split(",")]
    if package not in allowed:
        raise SettingsError(
            f"{owner}: {name} is code of the package {package}, which is run only if {VARIABLE} "
            f"names it. Fix, if you trust this code: export {VARIABLE}={package}"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as Python does, but not its console scripts
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise SettingsError(
            f"{owner}: {module} cannot be imported: {error}. Fix: install the package, or start in "
            "the folder that has it"
        ) from error
    if found is None:
        raise SettingsError(f"{owner}: the module {module} has no class {attribute}")
    return found


def plugin_code(name: str) -> str:
    """Return a hash of the code of an imported class's package; empty for a name of our own."""
    if not is_plugin(name):
        return ""
    module = name.rpartition(".")[0]
    file = Path(str(sys.modules[module].__file__)).resolve()
    if file.stem == "__init__":
        file = file.parent
    return code_version(module, source_dir=file.parents[module.count(".")])


@dataclasses.dataclass(frozen=True)
class PluggableSettings(Settings):
    """Base of settings with a field that may name a class of the user's own.

    `SELECTOR` is that field. `METHODS` are the methods that such a class must have.
    """

    SELECTOR: ClassVar[str]
    METHODS: ClassVar[tuple[str, ...]]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "", section: str = "") -> Self:
        """Build from a plain mapping, as `Settings.from_mapping` does.

        If the values name a class of the user's own, the result has the settings of its `Config`
        besides those of this class; raises the errors of `plugin_settings` too.
        """
        kind, name = cls, values.get(cls.SELECTOR) if isinstance(values, Mapping) else None
        is_derived = is_plugin(getattr(cls, cls.SELECTOR))
        if isinstance(name, str) and is_plugin(name) and not is_derived:
            owner = ": ".join(filter(None, (where, f"{section or cls.__name__}.{cls.SELECTOR}")))
            kind = plugin_settings(name, owner, cls, cls.SELECTOR, cls.METHODS)
        return super(PluggableSettings, kind).from_mapping(values, where, section)


def plugin_settings(
    name: str, owner: str, base: Any, selector: str, methods: tuple[str, ...]
) -> type[Any]:
    """Return the settings class of a user's own class: its `Config` and `base` together.

    Raises `SettingsError` if the class lacks a method, has no `Config` or one that is no
    `Settings`, and the errors of `plugin_class`.

    Parameters
    ----------
    name, owner
        As in `plugin_class`.
    base
        The settings that every class of its kind has.
    selector
        The setting that holds the name.
    methods
        The methods that the class must have.
    """
    found = plugin_class(name, owner)
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Settings)):
        raise SettingsError(
            f"{owner}: {name} needs a class attribute Config, a dataclass that extends Settings "
            "(docs/own_parts.md)"
        )
    if missing := [method for method in methods if not callable(getattr(found, method, None))]:
        raise SettingsError(f"{owner}: {name} has no method {missing[0]} (docs/own_parts.md)")
    return _derived(name, base, selector, typing.cast("Any", config))


@functools.cache
def _derived(name: str, base: Any, selector: str, config: Any) -> type[Any]:
    """Return the settings of `config` and `base`, whose setting `selector` has the value `name`."""
    value = setting(name, "the class, one of your own")
    fields = [(selector, Literal[name], value)]
    return dataclasses.make_dataclass(config.__name__, fields, bases=(config, base), frozen=True)
