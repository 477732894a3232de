"""Classes of the user's own packages, which settings name as `my_package.MyClass`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.settings import SettingsError

VARIABLE = "MMCTR_PLUGINS"
"""Environment variable with the packages, separated by commas, whose code may be imported."""


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
