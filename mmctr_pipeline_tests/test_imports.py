"""Imports run only downward, and the core needs no Dagster.

Training needs only numpy, torch and pyarrow.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline_tests.hidden_packages import hide_packages

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "mmctr_pipeline"

TORCH_ALONE = [
    "mmctr_pipeline.data.ragged",
    "mmctr_pipeline.data.vectors",
    "mmctr_pipeline.data.dataset",
    "mmctr_pipeline.data.tables",
    "mmctr_pipeline.data.images",
    "mmctr_pipeline.metrics",
    "mmctr_pipeline.baselines",
    "mmctr_pipeline.encoders.store.vector_store",
    "mmctr_pipeline.encoders.store.prune",
    "mmctr_pipeline.models.improved_mmctr",
    "mmctr_pipeline.models.catalogue",
    "mmctr_pipeline.training.batch_source",
    "mmctr_pipeline.training.ctr",
    "mmctr_pipeline.training.score",
    "mmctr_pipeline.sample.write",
]
"""Modules that must import with only numpy, torch and pyarrow."""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, cwd=REPOSITORY
    )


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter], capture_output=True, text=True, cwd=REPOSITORY, timeout=900)
    assert result.returncode == 0, result.stdout


def test_training_core_needs_only_numpy_torch_and_pyarrow() -> None:
    hidden = [
        "dagster",
        "dagster_pandas",
        "polars",
        "pandas",
        "sklearn",
        "PIL",
        "open_clip",
        "sentence_transformers",
        "transformers",
        "matplotlib",
        "yaml",
        "filelock",
        "tqdm",
        "torchvision",
    ]
    imports = "\n".join(f"import {name}" for name in TORCH_ALONE)
    result = _run(hide_packages(*hidden) + imports)
    assert result.returncode == 0, result.stderr


def test_a_hidden_package_cannot_be_imported() -> None:
    result = _run(hide_packages("polars") + "import polars")
    assert "No module named 'polars'" in result.stderr


@pytest.mark.slow
def test_the_core_imports_without_dagster() -> None:
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if "defs" not in path.parts and path.name not in ("__init__.py", "definitions.py")
    ]
    assert len(modules) > 40
    hide = hide_packages("dagster", "dagster_pandas", "dagster_graphql")
    result = _run(hide + "\n".join(f"import {name}" for name in modules))
    assert result.returncode == 0, result.stderr


SETTINGS = [path for path in sorted(PACKAGE.rglob("config.py")) if path.parent.name != "defs"]


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.parent.name)
def test_settings_import_only_the_standard_library(path: Path) -> None:
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    code = (
        f"import sys; before = set(sys.modules); import {module}; "
        "print([name for name in set(sys.modules) - before "
        "if name.partition('.')[0] not in {*sys.stdlib_module_names, 'mmctr_pipeline'}])"
    )
    result = _run(code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_only_the_top_package_has_names_of_its_own_and_imports_them_when_they_are_used() -> None:
    filled = [path for path in PACKAGE.rglob("__init__.py") if path.read_text().strip()]
    assert filled == [PACKAGE / "__init__.py"]
    code = (
        "import sys; import mmctr_pipeline; print('torch' in sys.modules); "
        "from mmctr_pipeline import NewItem, Scorer; print('dagster' in sys.modules)"
    )
    result = _run(code)
    assert result.stdout.split() == ["False", "False"], result.stderr
