"""`mmctr check`."""

import click

from mmctr_pipeline.environment import Deployment


@click.command()
def check() -> int:
    """Check within seconds whether a run could start, and what would make it fail hours later.

    Prints a line for each finding, with the fix. The exit status is 1 if one is an error.
    """
    from mmctr_pipeline.preflight.check import preflight
    from mmctr_pipeline.preflight.findings import table
    from mmctr_pipeline.presets.preset import load_preset, preset_name

    deployment = Deployment.from_environment()
    findings = preflight(deployment, load_preset(preset_name(deployment)))
    print(table(findings))
    return int(any(finding.severity == "error" for finding in findings))
