"""`mmctr settings`."""

import dataclasses
from collections.abc import Iterator

import click

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.settings import Settings, described


@click.command()
@click.argument("section", default="")
def settings(section: str) -> int:
    """List the settings of the preset: name, value, what each does, and its bounds.

    SECTION selects some of them, such as training or encoders.text.
    """
    from tabulate import tabulate

    from mmctr_pipeline.presets.preset import load_preset, preset_name

    name = preset_name(Deployment.from_environment())
    rows = [row for row in _rows(load_preset(name), "") if f"{row[0]}.".startswith(section)]
    if not rows:
        raise click.UsageError(f"the preset {name} has no setting that begins with {section!r}")
    widths = [None, 24, 60]
    print(tabulate(rows, ["setting", name, "meaning"], maxcolwidths=widths, disable_numparse=True))
    return 0


def _rows(values: Settings, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, value and description of each setting, those of nested sections too."""
    for field in dataclasses.fields(values):
        value, path = getattr(values, field.name), f"{prefix}{field.name}"
        if isinstance(value, Settings):
            yield from _rows(value, f"{path}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield path, shown, described(field) or ""
