"""`advice` lists every error that is shown without a traceback, and imports nothing slow."""

import ast
import subprocess
import sys
from pathlib import Path

from mmctr_pipeline import advice

PACKAGE = Path(__file__).parents[1] / "mmctr_pipeline"
WITHOUT_ADVICE = {"CalibrationError", "MetricError", "UnreadableImageError"}
"""Errors that the package handles itself, or that only a bug can raise."""


def test_every_error_of_the_package_is_listed_under_its_module() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        names = sorted(
            node.name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef)
            and node.name.endswith("Error")
            and not node.name.startswith("_")
        )
        if names := [name for name in names if name not in WITHOUT_ADVICE]:
            found[module] = names
    assert found == advice.ERRORS


def test_errors_with_advice_are_those_of_the_modules_imported_so_far() -> None:
    code = (
        "import sys; from mmctr_pipeline import advice, settings; "
        "assert settings.SettingsError in advice.errors_with_advice(); "
        "assert len(advice.errors_with_advice()) == len(advice.ERRORS['settings']); "
        "assert not {'torch', 'pyarrow', 'dagster'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
