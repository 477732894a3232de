"""Every random number of the package follows from a seed that its code was given."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmctr_pipeline"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
KINDS = ("default_rng", "Generator", "PCG64", "SFC64", "SeedSequence")
SEEDED = {f"np.random.{kind}" for kind in KINDS}
SET_BY_THE_LOOP = {"torch.default_generator.manual_seed", "torch.cuda.manual_seed"}


def unseeded(source: str) -> list[str]:
    """Return the calls that draw from, or seed, a generator whose seed nobody gave."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else node.names
            modules = [
                name if isinstance(name, str) else getattr(name, "name", "") for name in names
            ]
            found += [module for module in modules if module == "random"]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_numpy = name.startswith(("np.random.", "numpy.random.")) and "(" not in name
        if is_numpy and not (name in SEEDED and node.args):
            found.append(ast.unparse(node))
        is_given = name == "torch.Generator().manual_seed" and node.args
        if name.endswith("manual_seed") and name not in SET_BY_THE_LOOP and not is_given:
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
def test_planted_calls_are_found(source: str) -> None:
    assert unseeded(source)
