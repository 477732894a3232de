"""Every command in the documents is one that the CLI, the Makefile or a benchmark understands."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest

from mmctr_pipeline.cli.main import mmctr

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:mmctr|make|python -m benchmarks\.) ?[^`]*)`")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_MAKE_VARIABLES = {"ARGS", "DAY", "EXTRAS", "PORT", "PYTHON", "TORCH", "WAIT", "WORKERS"}
_SEPARATORS = (";", "&&", "||", "|", "&")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a document, without assignments of variables."""
    yield from block_commands(text)
    yield from _commands(" ".join(found.split()) for found in _INLINE.findall(text))


def block_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a block of a document, as readers copy them."""
    return _commands(
        line
        for language, block in _BLOCK.findall(text)
        if language in ("", "bash", "sh")
        for line in block.replace("\\\n", " ").split("\n")
    )


def _commands(lines: Iterable[str]) -> Iterator[list[str]]:
    for line in lines:
        words = [*shlex.split(line, comments=True), ";"]
        command: list[str] = []
        for word in words:
            if word not in _SEPARATORS and not word.endswith(";"):
                command.append(word)
                continue
            command += [] if word in _SEPARATORS else [word[:-1]]
            while command and (command[0] == "export" or _ASSIGNMENT.match(command[0])):
                command = command[1:]
            if command:
                yield command
            command = []


def problem(words: list[str]) -> str | None:
    """Return why a command would be refused, or None if it is understood, or another program's."""
    program, *arguments = ["1" if word == "N" else word for word in words]
    if "..." in arguments or "benchmarks.NAME" in arguments:
        return None
    if program == "make":
        return _problem_of_make(arguments)
    if Path(program).name == "mmctr":
        return _problem_of_mmctr(arguments)
    if Path(program).name == "python" and arguments[:1] == ["-m"]:
        return _problem_of_module(arguments[1], arguments[2:])
    return None


def _problem_of_make(arguments: list[str]) -> str | None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in arguments:
        name = word.partition("=")[0]
        if "=" in word and name not in _MAKE_VARIABLES:
            return f"make has no variable {name}"
        if "=" not in word and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            return f"make has no target {word}"
    return None


def _problem_of_mmctr(arguments: list[str]) -> str | None:
    command: click.Command = mmctr
    while isinstance(command, click.Group) and arguments:
        name, *arguments = arguments
        if name not in command.commands:
            return f"mmctr has no command {name}"
        command = command.commands[name]
    if not arguments:
        return None  # a mention of the command
    try:
        command.make_context(command.name, list(arguments))
    except click.MissingParameter:
        return None  # as in "`mmctr leaderboard --seeds 5`", which leaves the rest out
    except click.ClickException as error:
        return None if "does not exist" in error.message else error.message
    return None


def _problem_of_module(module: str, arguments: list[str]) -> str | None:
    path = REPOSITORY / (module.replace(".", "/") + ".py")
    if module.partition(".")[0] != "benchmarks":
        return None
    if not path.is_file():
        return f"there is no benchmark {module}"
    source = path.read_text() + (REPOSITORY / "benchmarks" / "harness.py").read_text()
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    unknown = [option for option in options if f'"{option}"' not in source]
    return f"{module} has no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_is_understood(document: Path) -> None:
    found = [
        f"{shlex.join(words)}: {why}"
        for words in commands(document.read_text(encoding="utf-8"))
        if (why := problem(words))
    ]
    assert found == []


def test_the_documents_have_commands_of_every_kind() -> None:
    words = [each for path in DOCUMENTS for each in commands(path.read_text(encoding="utf-8"))]
    programs = [Path(each[0]).name for each in words]
    for program in ("make", "mmctr", "python"):
        assert programs.count(program) > 10, program


@pytest.mark.parametrize(
    "command",
    [
        "make rnu",
        "make run DYA=2026-01-01",
        "mmctr recomend --user 7",
        "mmctr recommend --usr 7",
        "mmctr leaderboard --seeds many",
        "python -m benchmarks.wek",
        "python -m benchmarks.week --ful",
    ],
)
def test_a_command_with_a_slip_is_found(command: str) -> None:
    ((words),) = commands(f"```\n{command}\n```")
    assert problem(words)
