"""The code version changes with the code that a module uses, and with nothing else."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from mmctr_pipeline.code_version import code_version

SHOP = {
    "__init__": "",
    "orders": "from shop.prices import total\n\n\ndef order():\n    return total()\n",
    "prices": "def total():\n    from shop import rates\n\n    return rates.VALUE\n",
    "rates": "from . import taxes\nVALUE = taxes.VALUE\n",
    "taxes/__init__": "from .history.old import VALUE\n",
    "taxes/history/__init__": "",
    "taxes/history/old": "import numpy\nVALUE = 1\n",
    "unused": "import shop.orders\n",
}
"""The modules of a small package, with their source."""


def version(
    folder: Path,
    changes: Mapping[str, str] = MappingProxyType({}),
    module: str = "shop.orders",
    callers: tuple[str, ...] = (),
) -> str:
    """Return the version of `module` in a copy of the package SHOP with `changes` to its files."""
    source_dir = folder / str(len(list(folder.iterdir())))
    for name, content in {**SHOP, **changes}.items():
        path = source_dir / "shop" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return code_version(module, *callers, source_dir=source_dir)


def test_version_is_16_hex_digits_and_depends_on_the_code_alone(tmp_path: Path) -> None:
    first = version(tmp_path)
    assert len(first) == 16
    int(first, 16)
    assert version(tmp_path) == first  # in another folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("orders", SHOP["orders"].replace("return total()", "return total() + 1")),
        ("prices", SHOP["prices"].replace("rates.VALUE", "-rates.VALUE")),
        ("rates", SHOP["rates"] + "OTHER = 2\n"),
        ("taxes/__init__", SHOP["taxes/__init__"] + "OTHER = 2\n"),
        ("taxes/history/__init__", "OTHER = 2\n"),
        ("taxes/history/old", "VALUE = 2\n"),
    ],
)
def test_any_module_that_is_imported_counts(tmp_path: Path, file: str, content: str) -> None:
    """Indirect imports, imports in functions, relative imports and parent packages count, too."""
    assert version(tmp_path, {file: content}) != version(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("orders", '"""Orders."""\nfrom shop.prices import total\ndef order(): return total()\n'),
        ("prices", SHOP["prices"].replace("():\n", '():\n    """Return it."""  # quickly\n', 1)),
        ("rates", SHOP["rates"] + '"""The rate."""\n'),
        ("unused", "VALUE = 2\n"),
    ],
)
def test_comments_formatting_and_unused_modules_do_not_count(
    tmp_path: Path, file: str, content: str
) -> None:
    assert version(tmp_path, {file: content}) == version(tmp_path)


def test_modules_that_import_each_other_have_a_version(tmp_path: Path) -> None:
    circle = {"rates": "import shop.orders\nVALUE = 1\n"}
    assert version(tmp_path, circle) != version(tmp_path)
    assert version(tmp_path, circle, "shop.prices") == version(tmp_path, circle)


def test_a_caller_counts_without_the_modules_that_it_imports(tmp_path: Path) -> None:
    def with_caller(changes: Mapping[str, str]) -> str:
        return version(tmp_path, changes, "shop.rates", ("shop.unused",))

    first = with_caller({})
    assert first != version(tmp_path, module="shop.rates")
    assert first != with_caller({"unused": SHOP["unused"] + "OTHER = 2\n"})
    assert first == with_caller({"orders": SHOP["orders"] + "OTHER = 2\n"})


def test_an_unknown_module_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"shop\.nothing"):
        version(tmp_path, module="shop.nothing")


def test_the_version_of_the_training_code_is_known_without_importing_torch() -> None:
    code = (
        "import sys; from mmctr_pipeline.code_version import code_version; "
        "print(code_version('mmctr_pipeline.training.ctr'), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [code_version("mmctr_pipeline.training.ctr"), "False"]
    assert code_version("mmctr_pipeline.settings") != code_version("mmctr_pipeline.training.ctr")
