"""Code versions: hashes of the source code that a result depends on.

Checkpoints, assets and leaderboard rows record such a hash. So changed code is noticed without a
version number that somebody has to increase.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Import: TypeAlias = ast.Import | ast.ImportFrom

_SOURCE_DIR = Path(__file__).parent.parent


@functools.cache
def code_version(module: str, *callers: str, source_dir: Path = _SOURCE_DIR) -> str:
    """Return 16 hex digits that change with the code of `module` and of all that it imports.

    This includes imports of imports and imports inside functions, within the same package.
    Comments, docstrings and formatting do not count. Nothing is executed: each file is parsed once
    per process. Raises `ModuleNotFoundError` if a module has no file.

    Parameters
    ----------
    module
        Dotted name below `source_dir`.
    callers
        Other modules whose code counts too; what they import does not.
    source_dir
        Folder that contains the package.
    """
    found = {name: _existing_path(name, source_dir) for name in (module, *callers)}
    pending = [module]
    while pending:
        for name in _parse(found[pending.pop()], source_dir)[1]:
            if name not in found and (path := _path(name, source_dir)):
                found[name] = path
                pending.append(name)
    digests = [(name, _parse(path, source_dir)[0]) for name, path in sorted(found.items())]
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


def _existing_path(module: str, source_dir: Path) -> Path:
    path = _path(module, source_dir)
    if path is None:
        raise ModuleNotFoundError(f"{source_dir} has no source of module {module}", name=module)
    return path


@functools.cache
def _path(module: str, source_dir: Path) -> Path | None:
    """Return the source file of a module or package, if `source_dir` has it."""
    stem = source_dir.joinpath(*module.split("."))
    paths = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in paths if path.is_file()), None)


@functools.cache
def _parse(path: Path, source_dir: Path) -> tuple[str, frozenset[str]]:
    """Return the hash of a file's code, and the modules that it may import."""
    package = path.parent.relative_to(source_dir).parts
    imports: list[Import] = []
    plain = _plain(ast.parse(path.read_bytes(), path), imports)
    names = {name for node in imports for name in _imported(node, package)}
    return hashlib.sha256(repr(plain).encode()).hexdigest(), frozenset(names)


def _imported(node: Import, package: tuple[str, ...]) -> Iterator[str]:
    """Yield each dotted name that an import takes from its own package and that may be a module.

    `node` is in a module of the package whose dotted name has the parts `package`.
    """
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        parents = package[: len(package) + 1 - node.level] if node.level else ()
        base = ".".join([*parents, *([node.module] if node.module else [])])
        names = [f"{base}.{alias.name}" for alias in node.names]
    for name in names:
        parts = name.split(".")
        if parts[:1] == list(package[:1]):  # importing a.b.c runs a and a.b too
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _plain(node: Any, imports: list[Import]) -> Any:
    """Return a syntax tree as nested tuples, without positions and docstrings.

    Empty fields are left out, since versions of Python differ in them. Import statements are added
    to `imports`.
    """
    if isinstance(node, list):
        return tuple([_plain(item, imports) for item in node if not _is_docstring(item)])
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, Import):
        imports.append(node)
    parts: list[Any] = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if value is not None and value != []:
            parts.append((name, _plain(value, imports)))
    return tuple(parts)


def _is_docstring(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
