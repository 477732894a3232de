"""Settings files with repeated keys or ambiguous YAML are refused; errors show no content."""

import os
from pathlib import Path

import pytest

from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.presets.yaml_file import read_yaml
from mmctr_pipeline.settings import SettingsError

SECRET = "s3cr3t-t0k3n"
"""Content of a file that must not appear in an error."""


def write_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load_error(path: Path) -> str:
    with pytest.raises(SettingsError) as error:
        load_preset(str(path))
    return str(error.value)


DUPLICATES = {
    "section": ("training: {seed: 1}\nmodel: {}\ntraining: {max_epochs: 2}\n", "training", 3, 1),
    "setting": ("training:\n  seed: 1\n  seed: 1\n", "seed", 3, 2),
    "setting in one line": ("training: {seed: 1, max_epochs: 2, seed: 3}\n", "seed", 1, 1),
    "deep setting": ("encoders:\n  text:\n    model: a\n    model: b\n", "model", 4, 3),
    "in quotes": ('training:\n  seed: 1\n  "seed": 2\n', "seed", 3, 2),
    "escaped": ('training:\n  seed: 1\n  "s\\x65ed": 2\n', "seed", 3, 2),
    "extends": ("extends: sample\nextends: din\n", "extends", 2, 1),
    "merge": (
        "training: &base\n  seed: 1\nfusion:\n  <<: *base\n  seed: 2\n",
        "seed",
        5,
        2,
    ),
    "two merges": (
        "a: &a {seed: 1}\nb: &b\n  seed: 2\ntraining:\n  <<: [*a, *b]\n",
        "seed",
        3,
        1,
    ),
    "in an alias": ("a: &a {seed: 1,\n  seed: 2}\ntraining: *a\n", "seed", 2, 1),
}


@pytest.mark.parametrize("name", DUPLICATES)
def test_a_key_that_is_set_twice_is_named_with_its_lines(name: str, tmp_path: Path) -> None:
    text, key, line, first = DUPLICATES[name]
    path = write_file(tmp_path, text)
    expected = f"{path}, line {line}: {key} is set twice, first in line {first}; remove one"
    assert load_error(path) == expected


def test_all_faults_of_a_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    path = write_file(tmp_path, "seed: 0127\ntraining: {patience: !x 1}\nseed: 3\n")
    assert load_error(path).splitlines() == [
        f"{path}: 3 faults:",
        "  line 1: YAML reads this number as octal or in base 60: write it out",
        "  line 2: tags (!...) are not read, only plain values",
        "  line 3: seed is set twice, first in line 1; remove one",
    ]


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "python object": (f"model: !!python/object/apply:os.system [{SECRET}]", "line 1: tags (!...)"),
    "python name": (f"model: {{name: !!python/name:{SECRET} x}}", "line 1: tags (!...)"),
    "custom tag": (f"a: 1\nb: !{SECRET} x", "line 2: tags (!...)"),
    "set": (f"a: !!set {{{SECRET}}}", "line 1: tags (!...)"),
    "binary value": ("a: !!binary aGVsbG8=", "line 1: tags (!...)"),
    "wrong tag": (f"a: !!int {SECRET}", "line 1: not a number"),
    "two documents": (f"a: 1\n---\nb: {SECRET}", "line 2: not valid YAML: a second document"),
    "list": (f"- {SECRET}", "holds a list instead of sections; a preset is a YAML file"),
    "text": (SECRET, "holds text instead of sections; a preset is a YAML file"),
    "empty": ("", "is empty; a preset is a YAML file"),
    "only comments": (f"# {SECRET}\n", "is empty; a preset is a YAML file"),
    "tab": (f"a: 1\n\tb: {SECRET}", "line 2: not valid YAML: a tab; indent with spaces"),
    "open bracket": (f"a: [{SECRET}", "line 1: not valid YAML: expected"),
    "open brace": (
        f"a: {{b: {SECRET}\n",
        "line 2: not valid YAML: expected ',' or '}', but got '<stream end>'",
    ),
    "wrong bracket": (f"a: [{SECRET}}}", "not valid YAML: expected ',' or ']', but got '}'"),
    "missing colon": (
        f"training: {{batch_size {SECRET}}}",
        "line 1: a name without a value; is `: ` missing after it?",
    ),
    "open quote": (f"a: 1\nb: '{SECRET}", "line 2: not valid YAML"),
    "missing alias": (f"a: *{SECRET.replace('-', '')}", "line 1: not valid YAML: found undefined"),
    "equal anchors": (f"a: &{SECRET} 1\nb: &{SECRET} 2", "not valid YAML"),
    "two colons": (f"a: b: {SECRET}", "line 1: not valid YAML: mapping values"),
    "key that is a list": (f"? [{SECRET}]\n: 1", "line 1: a key must be the name"),
    "key that is a number": (f"a: 1\n3: {SECRET}", "line 2: a key must be the name"),
    "key that is a boolean": (f"on: {SECRET}", "line 1: a key must be the name"),
    "merge of text": (f"<<: {SECRET}", "line 1: << takes a mapping"),
    "octal": ("training: {batch_size: 0127}", "line 1: YAML reads this number as octal"),
    "base 60": ("training:\n  batch_size: 2:10", "line 2: YAML reads this number as octal"),
    "very long integer": (f"training: {{seed: {'9' * 5000}}}", "line 1: not a number"),
    "UTF-16": (f"a: {SECRET}".encode("utf-16"), "is not UTF-8 text (byte 1)"),
    "Latin-1": (f"a: {SECRET} ü".encode("latin-1"), "is not UTF-8 text (byte"),
    "null bytes": (f"a: 1\nb: {SECRET}\0", "line 2: not text but binary content"),
    "image": (b"\x89PNG\r\n\x1a\n\0\0\0" + SECRET.encode(), "is not UTF-8 text (byte 1)"),
    "large": (f"a: {SECRET}\n" + "# more\n" * 20_000, "has more than 100,000 bytes"),
    "deep": ("a: " + "[" * 40 + SECRET + "]" * 40, "nested more than 32 levels deep"),
    "very deep": ("a: 1\nb: " + "[" * 90_000 + "\n", "line 2: nested more than 32 levels deep"),
    "an alias in itself": ("a: &a [*a]", "nested more than 32 levels deep"),
    "a merge in itself": ("a: &a\n  <<: *a", "nested more than 32 levels deep"),
    "bomb of aliases": (
        "a0: &a0 [x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
        "more than 10,000 values",
    ),
    "bomb of merges": (
        "a0: &a0 {}\n"
        + "".join(
            f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
        ),
        "more than 10,000 values",
    ),
    "environment file": (f"TOKEN={SECRET}\n", "holds text instead of sections"),
    "mapping with keys that are not names": (
        f"{SECRET}: 1\nhttps://user:{SECRET}@host: 2\n" + f"k: {SECRET}",
        "unknown setting (no name), (no name), k; known: data, encoders, fusion",
    ),
    "mapping with many unknown keys": (
        "".join(f"key{n}: {SECRET}\n" for n in range(100)),
        "unknown setting key0, key1, key2, key3, key4 and 95 more; known",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_error_about_a_broken_file_names_it_and_shows_no_content(
    name: str, tmp_path: Path
) -> None:
    content, problem = BROKEN[name]
    path = write_file(tmp_path, content)
    message = load_error(path)
    assert problem in message
    assert str(path) in message
    assert SECRET not in message
    assert len(message) < 500 + len(str(path))


def test_paths_that_are_not_files_are_refused(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    problems = {
        tmp_path: "is a folder; a preset is a YAML file",
        pipe: "is a device or a pipe; a preset is",
        Path("/dev/zero"): "is a device or a pipe; a preset is",
        Path("/proc/self/mem"): "cannot be read (",
        loop: "cannot be read: ",
        tmp_path / "none.yaml": "neither a file nor one of din, ",
        tmp_path / "x.yaml" / "y": "neither a file nor one of din, ",
        tmp_path / ("long" * 100): "cannot be read: ",
        Path("a\0b"): "neither a file nor one of din, ",
    }
    for path, problem in problems.items():
        message = load_error(path)
        assert problem in message
        assert len(message) < 700


def test_unusual_but_valid_yaml_is_read(tmp_path: Path) -> None:
    text = (
        "\ufeff# With a byte order mark, as editors on Windows write it.\r\n"
        "training: &both\r\n  learning_rate: 2e-3\r\n  seed: 7\r\n"
        'fusion: {<<: *both, dim: 1_000}\nquoted: "2e-3"\ndate: 2026-01-02\nyes_or_no: no\n'
    )
    assert read_yaml(write_file(tmp_path, text)) == {
        "training": {"learning_rate": 0.002, "seed": 7},
        "fusion": {"learning_rate": 0.002, "seed": 7, "dim": 1000},
        "quoted": "2e-3",
        "date": "2026-01-02",
        "yes_or_no": False,
    }
