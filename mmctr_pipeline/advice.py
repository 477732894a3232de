"""Errors that users can correct. Commands print their messages, which name the fix."""

import sys

ERRORS = {
    "comparison.repeat": ["RepeatError"],
    "data.model_rows": ["OtherIdsError"],
    "data.user_split": ["UserSplitError"],
    "data.validation": ["DataError", "DataNotFoundError"],
    "encoders.activation": ["ActivationError"],
    "encoders.image.inference": ["ImageChangedError"],
    "encoders.model_files": ["ModelFilesError"],
    "encoders.locate": ["ModelNotFoundError"],
    "encoders.ray_actor": ["OtherEncoderError", "RayEncodingError"],
    "encoders.text.titles": ["TemplateError"],
    "environment": ["DeploymentError"],
    "files.errors": ["DamagedFileError", "WriteError"],
    "fusion.errors": ["FusionError"],
    "fusion.fuse": ["StaleVectorsError"],
    "monitoring.night": ["BlockedDataError"],
    "publishing.store": ["PublishError"],
    "registry.champion": ["ChampionError"],
    "registry.contest": ["NoChampionError"],
    "registry.model_file": ["ModelFileError"],
    "reporting.report.inputs": ["ReportError"],
    "serving.errors": ["ScorerError"],
    "settings": ["InvalidValueError", "SettingsError"],
    "submission.files": ["SubmissionError"],
    "training.batch_source": ["TrainingDataError"],
    "training.on_ray": ["RayTrainingError"],
    "training.step": ["TrainingDivergedError"],
}
"""Names of the error classes, by module. Subclasses of a listed class are listed too."""

NAMES = {name for names in ERRORS.values() for name in names}


def errors_with_advice() -> tuple[type[Exception], ...]:
    """Return the classes of `ERRORS` whose modules are imported: only they can have been raised."""
    found = []
    for module, names in ERRORS.items():
        if imported := sys.modules.get(f"mmctr_pipeline.{module}"):
            found += [getattr(imported, name) for name in names]
    return tuple(found)
