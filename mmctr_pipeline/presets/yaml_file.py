"""Read YAML files of settings: plain values, and no key twice.

Errors name the file and the line. They show keys but never values: the path may be a mistake, and
lead to a file whose content must not appear in a log.
"""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mmctr_pipeline.settings import SettingsError, shown_names

PRESET_FORM = (
    "a preset is a YAML file with any of the sections data, encoders, fusion, model, training, "
    "checks, promotion and monitoring, which may begin with extends: NAME and seed: NUMBER"
)

_MAX_BYTES = 100_000
_MAX_DEPTH = 32
_MAX_VALUES = 10_000

_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float")}
_STRINGS = {f"{_TAG}str", f"{_TAG}timestamp"}
_MERGE, _STR, _MAP, _SEQ = (f"{_TAG}{kind}" for kind in ("merge", "str", "map", "seq"))

# PyYAML follows YAML 1.1, in which 2e-3 is a string, 0127 is octal and 1:30 is in base 60.
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_ODD_NUMBER = re.compile(r"[-+]?0[0-9_]+|.*:.*")

# PyYAML's messages quote single characters, its own tokens, and text of the file, which is hidden.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_TOKEN = re.compile(r"'(.|<[a-z ]+>)'")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file of settings.

    Anchors, aliases and merges (`<<`) work, as long as no key is set twice. Raises `SettingsError`
    if the file holds anything else, or has more than 100 kB, 10,000 values or 32 levels.
    """
    text = _read_text(path)
    try:
        _check_depth(path, text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(
            f"{path}, line {line}: not text but binary content; {PRESET_FORM}"
        ) from None
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "text"
        found = "is empty" if root is None else f"holds {kind} instead of sections"
        raise SettingsError(f"{path} {found}; {PRESET_FORM}")
    reader = _Values(path, loader)
    values: dict[str, Any] = reader.plain(root, 0)
    if len(reader.faults) == 1:
        raise SettingsError(f"{path}, {reader.faults[0]}")
    if reader.faults:
        raise SettingsError(str(path), reader.faults)
    return values


def _read_text(path: Path) -> str:
    """Return the text of a small file; folders, devices and pipes are refused unopened."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise SettingsError(f"{path} is {kind}; {PRESET_FORM}")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); {PRESET_FORM}") from error
    if len(content) > _MAX_BYTES:
        raise SettingsError(f"{path} has more than {_MAX_BYTES:,} bytes; {PRESET_FORM}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is not UTF-8 text (byte {error.start + 1:,}); {PRESET_FORM}"
        ) from None


def _check_depth(path: Path, text: str) -> None:
    """Check the nesting of the parser's events; making nodes from them recurses at each level."""
    depth = -1  # `_Values` counts from 0 too
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _too_deep(path, event.start_mark)


def _too_deep(path: Path, mark: Any) -> SettingsError:
    return SettingsError(f"{path}, line {mark.line + 1}: nested more than {_MAX_DEPTH} levels deep")


def _syntax_error(path: Path, error: yaml.MarkedYAMLError) -> SettingsError:
    mark = error.problem_mark or error.context_mark
    where = f"{path}, line {mark.line + 1}" if mark else str(path)
    problem = error.problem or ""
    if "another document" in problem:
        problem = "a second document begins; a file may hold only one"
    elif r"'\t'" in problem:
        problem = "a tab; indent with spaces"
    problem = _QUOTED.sub(lambda found: found[0] if _TOKEN.fullmatch(found[0]) else "...", problem)
    return SettingsError(f"{where}: not valid YAML: {problem or 'its structure is broken'}")


class _Values:
    """Turns the nodes of one file into plain values.

    A node that cannot be one becomes None, and `faults` says why.
    """

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self.faults: list[str] = []
        self._path, self._loader = path, loader
        self._n_values = 0

    def plain(self, node: yaml.Node, depth: int) -> Any:
        """Return the value of a node; each use of an alias counts towards the limit of values."""
        self._count(node, depth)
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self.plain(element, depth + 1) for element in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        return self._fault(node, "tags (!...) are not read, only plain values")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in self._entries(node, depth):
            if key_node.tag != _STR or not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, "a key must be the name of a section or a setting")
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if value_node.value == "" and not key.isidentifier():
                self._fault(key_node, "a name without a value; is `: ` missing after it?")
                continue
            if key in values:
                self._fault(
                    key_node,
                    f"{shown_names([key])} is set twice, first in line {lines[key]}; remove one",
                )
                continue
            values[key], lines[key] = self.plain(value_node, depth + 1), line
        return values

    def _entries(self, node: yaml.MappingNode, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Yield keys and values of a mapping, and of the mappings that it merges (`<<`)."""
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                yield key_node, value_node
                continue
            is_list = isinstance(value_node, yaml.SequenceNode)
            for merged in value_node.value if is_list else [value_node]:
                self._count(merged, depth + 1)
                if not isinstance(merged, yaml.MappingNode):
                    self._fault(key_node, "<< takes a mapping")
                    continue
                yield from self._entries(merged, depth + 1)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, is_plain = node.value, node.style is None
        if node.tag in _STRINGS:
            return float(text) if is_plain and _FLOAT.fullmatch(text) else text
        if node.tag not in _SCALARS:
            return self._fault(node, "tags (!...) are not read, only plain values")
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and _ODD_NUMBER.fullmatch(text):
            return self._fault(node, "YAML reads this number as octal or in base 60: write it out")
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError):  # !!int x, or an integer of thousands of digits
            return self._fault(node, "not a number or a boolean")

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._n_values += 1
        if self._n_values > _MAX_VALUES:
            raise self._error(node, f"more than {_MAX_VALUES:,} values, counting aliases")
        if depth > _MAX_DEPTH:
            raise _too_deep(self._path, node.start_mark)

    def _fault(self, node: yaml.Node, problem: str) -> Any:
        fault = f"line {node.start_mark.line + 1}: {problem}"
        if fault not in self.faults:  # an alias is read at each of its uses
            self.faults.append(fault)

    def _error(self, node: yaml.Node, problem: str) -> SettingsError:
        return SettingsError(f"{self._path}, line {node.start_mark.line + 1}: {problem}")
