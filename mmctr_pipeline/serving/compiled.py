"""Compile an exported program to machine code for CPUs."""

import contextlib
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import UserError
from torch.export import ExportedProgram

from mmctr_pipeline.serving.errors import ScorerError, first_line
from mmctr_pipeline.serving.programs import example_inputs

# A service answers several requests at a time.
_OPTIONS: dict[str, Any] = {"cpp.threads": 1}
# All x86 CPUs with AVX2 run the result; wider vectors were no faster.
_X86_OPTIONS: dict[str, Any] = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}

# Their warnings are nothing that anybody could act on.
_NOISY_LOGGERS = (
    "torch.utils.cpp_extension",
    "torch._inductor.ir",
    "torch._inductor.utils",
    "torch.export.pt2_archive._package",
)


def require_compiler() -> None:
    """Raise `ScorerError` if there is no C++ compiler."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise ScorerError(
            f"{compiler}: no such C++ compiler. Fix: install g++ (on Debian apt-get install g++), "
            "name another one in CXX, or leave out --compile"
        )


def compiled(
    program: ExportedProgram, tables: dict[str, torch.Tensor], path: Path
) -> Callable[..., torch.Tensor]:
    """Compile a `CandidateProgram` to machine code; return what was written, loaded again.

    On x86 the result runs on every CPU with AVX2. Raises `ScorerError` if it cannot be compiled.

    Parameters
    ----------
    program
        The program; it is left as it was.
    tables
        The fields of `ItemFeatures`.
    path
        The package of AOTInductor to write; the name ends in `.pt2`.
    """
    import torch._inductor
    from torch._inductor.utils import fresh_cache

    options = _OPTIONS | (_X86_OPTIONS if platform.machine() == "x86_64" else {})
    program.example_inputs = (), example_inputs(tables, rows=False)
    try:
        with tempfile.TemporaryDirectory() as scratch, fresh_cache(dir=scratch), _quiet():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options
            )
    except (RuntimeError, UserError) as error:
        raise ScorerError(
            f"the program cannot be compiled: {first_line(error)}. Fix: leave out --compile"
        ) from error
    finally:
        program.example_inputs = None
    with _quiet():
        return torch._inductor.aoti_load_package(str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
