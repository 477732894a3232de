"""Reads a Dockerfile: its instructions in order, with continued lines joined."""

import dataclasses
import json
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction, such as `RUN`, and the rest of its line."""

    name: str
    rest: str


def instructions(path: Path) -> list[Instruction]:
    """Return the instructions of a Dockerfile, without comments and flags such as --mount."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        found.append(Instruction(name, re.sub(r"^(--\S+\s+)+", "", rest.strip())))
    return found


def environment(path: Path) -> dict[str, str]:
    """Return the variables that the ENV instructions set."""
    pairs = [
        pair
        for instruction in instructions(path)
        if instruction.name == "ENV"
        for pair in instruction.rest.split()
    ]
    return dict(pair.split("=", 1) for pair in pairs)


def command(path: Path) -> list[str]:
    """Return the words of CMD."""
    [rest] = [instruction.rest for instruction in instructions(path) if instruction.name == "CMD"]
    return json.loads(rest)
