"""Every random number generator of the package is seeded explicitly."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmctr_pipeline"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
KINDS = ("default_rng", "Generator", "PCG64", "SFC64", "SeedSequence")
SEEDED = {f"np.random.{kind}" for kind in KINDS}
SET_BY_THE_LOOP = {"torch.default_generator.manual_seed", "torch.cuda.manual_seed"}
"""The training loop seeds torch's global generators, as dropout draws from them."""


def unseeded(source: str) -> list[str]:
    """Return the imports and calls in `source` that may draw without a seed of their own.

    They are imports of `random`, calls that use or seed a global generator, and calls that create a
    generator without a seed.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == "random"]
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            found.append(node.module)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_numpy = name.startswith(("np.random.", "numpy.random.")) and "(" not in name
        if is_numpy and not (name in SEEDED and node.args):
            found.append(ast.unparse(node))
        is_own_generator = name == "torch.Generator().manual_seed" and node.args
        if name.endswith("manual_seed") and name not in SET_BY_THE_LOOP and not is_own_generator:
            found.append(ast.unparse(node))
        if name in ("torch.seed", "torch.initial_seed"):
            found.append(ast.unparse(node))
    n_generators = source.count("torch.Generator()")
    if n_generators != source.count("torch.Generator().manual_seed("):
        found.append("torch.Generator()")
    return found


def test_no_module_draws_without_a_seed() -> None:
    found = {str(path.relative_to(PACKAGE)): unseeded(path.read_text()) for path in MODULES}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from random import shuffle",
        "np.random.default_rng()",
        "np.random.seed(3)",
        "np.random.permutation(4)",
        "torch.manual_seed(1)",
        "torch.Generator()",
        "torch.seed()",
    ],
)
def test_unseeded_code_is_found(source: str) -> None:
    assert unseeded(source)
