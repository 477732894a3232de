"""Conditions outside the configuration that can change the result of a run.

Most of them change only its last digits.
"""

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.precision import dtype_for, dtype_name

_CODE = "code of training"
_TRAINING_MODULE = "mmctr_pipeline.training.ctr"
_DISTRIBUTIONS = ("torch", "numpy", "pyarrow", "mmctr-pipeline")


def run_conditions(device: torch.device, precision: str) -> dict[str, Any]:
    """Return the conditions of a run in this process by name.

    These are threads, device, processor, CPU capability, number format and code. `precision` is the
    setting `training.precision`.
    """
    return {
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "number format": dtype_name(dtype_for(precision, device)),
        _CODE: code_version(_TRAINING_MODULE),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a saved model depends on."""
    versions = {"python": platform.python_version()}
    for distribution in _DISTRIBUTIONS:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            version = "not installed"
        versions[distribution.replace("-", "_")] = version
    return versions


def changed_conditions(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each condition that changed, and one that lists what was not recorded.

    Both `recorded` and `now` are conditions and library versions together, by name.
    """
    sentences = []
    for name, value in now.items():
        if name in recorded and recorded[name] != value:
            what = "results" if name == _CODE else "last digits"
            sentences.append(
                f"recorded with {name} {recorded[name]}, now {value}: the {what} may differ"
            )
    if missing := [name for name in now if name not in recorded]:
        sentences.append(f"not recorded, so the results may differ: {', '.join(missing)}")
    return sentences


def _processor() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
