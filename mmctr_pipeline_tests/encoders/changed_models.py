"""Changes to a model folder: damage, missing parts, and other forms of its weights."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmctr_pipeline_tests.encoders.unusable_files import Payload

LAYER = "encoder.layer.1.attention.self.query.weight"


def replace_file(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def break_link(name: str) -> Callable[[Path], None]:
    """Replace a file by a broken link, as an interrupted hub download leaves it."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    return change


def cut_file(name: str, n_bytes: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:n_bytes])

    return change


def edit_tensors(
    edit: Callable[[dict[str, torch.Tensor]], Any], name: str = "model.safetensors"
) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / name)
        edit(state)
        save_file(state, folder / name, metadata={"format": "pt"})

    return change


def edit_settings(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def rename_a_tensor(state: dict[str, torch.Tensor]) -> None:
    state[LAYER.replace("query", "querry")] = state.pop(LAYER)


def remove_a_layer(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.startswith("encoder.layer.1.")]:
        del state[name]


def keep_words(keep: Callable[[str, int], bool]) -> Callable[[Path], None]:
    """Remove from the vocabulary the words for which `keep` is false."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        words = content["model"]["vocab"].items()
        content["model"]["vocab"] = {word: index for word, index in words if keep(word, index)}
        path.write_text(json.dumps(content))

    return change


def write_words_without_merges(folder: Path) -> None:
    """Write the vocabulary as vocab.json, but not merges.txt, which belongs to it."""
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(words))


def split_weights(folder: Path) -> Path:
    """Split the weights into two files with an index; return the second."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {
        "model-00001-of-00002.safetensors": names[:10],
        "model-00002-of-00002.safetensors": names[10:],
    }
    for part, tensors in parts.items():
        save_file({name: state[name] for name in tensors}, folder / part, metadata={"format": "pt"})
    weight_map = {name: part for part, tensors in parts.items() for name in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder / "model-00002-of-00002.safetensors"


def write_pickle(
    content: Callable[[Path, dict[str, torch.Tensor]], Any], name: str = "model.safetensors"
) -> Callable[[Path], None]:
    """Replace the weights by a pickle of `content(folder, weights)`."""

    def change(folder: Path) -> None:
        torch.save(content(folder, load_file(folder / name)), _pickle_path(folder, name))
        (folder / name).unlink()

    return change


def write_raw_pickle(name: str = "model.safetensors") -> Callable[[Path], None]:
    """Replace the weights by a malicious pickle that torch did not write."""

    def change(folder: Path) -> None:
        _pickle_path(folder, name).write_bytes(pickle.dumps(Payload(folder / "mark")))
        (folder / name).unlink()

    return change


def malicious_weights(folder: Path, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return weights with an object that creates a folder when it is unpickled."""
    return {**weights, "payload": Payload(folder / "mark")}


def _pickle_path(folder: Path, name: str) -> Path:
    """Return the path of the pickle that the libraries read if `name` does not exist."""
    return folder / name.replace("model.safetensors", "pytorch_model.bin")
