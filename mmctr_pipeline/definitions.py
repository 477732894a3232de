"""Everything Dagster sees: assets, checks, jobs, schedule, sensors, resources and the executor."""

import os
import warnings

import dagster as dg

from mmctr_pipeline.defs import assets, jobs, schedules, sensors
from mmctr_pipeline.defs.automation import automated, changes_sensor
from mmctr_pipeline.defs.config import current_deployment, deployment_preset
from mmctr_pipeline.defs.days import day_definitions
from mmctr_pipeline.defs.executors import end_steps_with_run, executor, set_root_log_handler
from mmctr_pipeline.defs.io_managers import io_managers
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.defs.run_config_files import check_run_config_files
from mmctr_pipeline.environment import share_cores

share_cores()
set_root_log_handler()
check_run_config_files()
end_steps_with_run()
if not os.environ.get("DAGSTER_HOME"):
    warnings.warn(
        "DAGSTER_HOME is not set: the history of this run will be lost. "
        'Use make, or: export DAGSTER_HOME="$PWD/.dagster"',
        stacklevel=1,
    )

_nightly = current_deployment().nightly
_assets = dg.load_assets_from_package_module(assets)
day_assets, day_jobs = day_definitions()

# MMCTR_NIGHTLY chooses the schedule or the automation, never both. If it is unset, either can be
# started in the UI.
defs = dg.Definitions(
    assets=[*(_assets if _nightly == "cron" else automated(_assets)), *day_assets],
    asset_checks=dg.load_asset_checks_from_package_module(assets),
    jobs=[*jobs.JOBS, *day_jobs],
    schedules=[] if _nightly == "changes" else [schedules.nightly],
    sensors=[
        sensors.failed_runs,
        sensors.dead_runs,
        *([] if _nightly == "cron" else [changes_sensor()]),
    ],
    resources={
        "deployment": DeploymentResource.from_environment(current_deployment()),
        **io_managers(str(current_deployment().storage_dir), current_deployment().publish_url),
    },
    executor=executor(current_deployment().executor, deployment_preset().encoders),
)


def full_pipeline_job() -> dg.JobDefinition:
    """Return the job of `make run`. The run's child processes call this to get the same job."""
    return defs.resolve_job_def(jobs.full_pipeline.name)
