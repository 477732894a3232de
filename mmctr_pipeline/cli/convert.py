"""`mmctr convert`."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mmctr_pipeline.data.convert.config import (
    ConvertConfig,
    MicroLensConfig,
    MovieLensConfig,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FOLDER = click.Path(path_type=Path)


@click.group()
def convert() -> None:
    """Convert a public data set to the layout that the pipeline reads.

    Splits follow time: each user's last rows become test, and the rows before these valid. A
    history holds only items that precede its row. The labels of test are kept in
    test_labels.parquet.
    """


def _options(config: type[ConvertConfig]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds an option for each field of `config`."""

    def decorated(command: _Command) -> _Command:
        for field in reversed(dataclasses.fields(config)):
            text = field.metadata["help"]
            command = click.option(
                f"--{field.name.replace('_', '-')}",
                default=field.default,
                type=int if field.default is None else type(field.default),
                help=f"{text[0].upper()}{text[1:]}.",
            )(command)
        return command

    return decorated


_FOLDER_ARGUMENT = click.argument("folder", type=_FOLDER)
_OUTPUT_OPTION = click.option(
    "--output", type=_FOLDER, help="The new data folder.  [default: FOLDER-converted]"
)


@convert.command()
@_FOLDER_ARGUMENT
@_OUTPUT_OPTION
@_options(MovieLensConfig)
@click.option("--posters", type=_FOLDER, help="Folder of {movieId}.jpg.  [default: in FOLDER]")
def movielens(folder: Path, output: Path | None, posters: Path | None, **settings: Any) -> None:
    """Convert MovieLens-1M (ratings.dat, movies.dat) or ml-latest (ratings.csv, movies.csv)."""
    from mmctr_pipeline.data.convert.convert import convert_movielens

    target = _target(folder, output)
    convert_movielens(folder, target, MovieLensConfig(**settings), posters)
    print(f"MMCTR_DATA_DIR={target}")


@convert.command()
@_FOLDER_ARGUMENT
@_OUTPUT_OPTION
@_options(MicroLensConfig)
@click.option("--covers", type=_FOLDER, help="Folder of {item}.jpg.  [default: in FOLDER]")
def microlens(folder: Path, output: Path | None, covers: Path | None, **settings: Any) -> None:
    """Convert MicroLens-50k or 100k (MicroLens-*_pairs.csv, titles, likes and views)."""
    from mmctr_pipeline.data.convert.convert import convert_microlens

    target = _target(folder, output)
    convert_microlens(folder, target, MicroLensConfig(**settings), covers)
    print(f"MMCTR_DATA_DIR={target}")


def _target(folder: Path, output: Path | None) -> Path:
    folder = folder.resolve()
    return Path(os.path.realpath(output or folder.with_name(f"{folder.name}-converted")))
