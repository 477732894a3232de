"""CLIP weights in each common form are read exactly, or refused with the name of the file."""

import json
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from mmctr_pipeline.encoders.activation import ActivationError
from mmctr_pipeline.encoders.clip import load_clip
from mmctr_pipeline.encoders.locate import ModelNotFoundError, locate_image_model
from mmctr_pipeline.encoders.model_files import ModelFilesError
from mmctr_pipeline_tests.encoders.changed_models import (
    cut_file,
    edit_tensors,
    malicious_weights,
    replace_file,
    write_pickle,
    write_raw_pickle,
)
from mmctr_pipeline_tests.encoders.small_models import write_clip
from mmctr_pipeline_tests.encoders.unusable_files import POINTER, Payload

WEIGHTS = "open_clip_model.safetensors"
NAME, QUICK = "smallest-clip", "smallest-clip-quickgelu"
CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip", seed=0)


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two architectures, with GELU and with QuickGELU, added to those of open_clip."""
    for name, quick in ((NAME, {}), (QUICK, {"quick_gelu": True})):
        path = tmp_path_factory.mktemp("configs") / f"{name}.json"
        path.write_text(json.dumps({**CONFIG, **quick}))
        open_clip.add_model_config(path)


@pytest.fixture(scope="module")
def openai(architectures: None) -> Any:
    """A model like OpenAI's, with QuickGELU and weights rounded to half precision."""
    torch.manual_seed(0)
    model = open_clip.create_model(QUICK)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half())
    return model.eval()


@pytest.fixture(scope="module")
def archive(openai: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a TorchScript archive, the form in which OpenAI publishes it."""
    path = tmp_path_factory.mktemp("archive") / "RN50.pt"
    images, texts = PIXELS, torch.ones(2, 77, dtype=torch.int64)
    inputs = {"forward": (images, texts), "encode_image": (images,), "encode_text": (texts,)}
    torch.jit.trace_module(openai, inputs, check_trace=False).save(str(path))
    return path


def load_model(folder: Path) -> Any:
    return load_clip(locate_image_model(f"local-dir:{folder}"), "cpu").model


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "Git LFS pointer": (replace_file(WEIGHTS, POINTER), r"safetensors is a Git LFS pointer"),
    "web page": (replace_file(WEIGHTS, b"<html>"), r"safetensors is a web page"),
    "empty": (replace_file(WEIGHTS, b""), r"safetensors is empty"),
    "cut off": (cut_file(WEIGHTS, 5000), r"safetensors is damaged or truncated"),
    "tensor missing": (
        edit_tensors(lambda state: state.pop("visual.proj"), WEIGHTS),
        r"does not fit .*Missing key\S* in state_dict: \"visual\.proj\"",
    ),
    "tensor renamed": (
        edit_tensors(
            lambda state: state.update({"visual.project": state.pop("visual.proj")}), WEIGHTS
        ),
        r"does not fit .*Missing .*\"visual\.proj\"\. Unexpected .*\"visual\.project\"",
    ),
    "extra tensor": (
        edit_tensors(lambda state: state.update({"visual.more": torch.zeros(1)}), WEIGHTS),
        r"does not fit .*Unexpected key\S* in state_dict: \"visual\.more\"",
    ),
    "wrong shape": (
        edit_tensors(lambda state: state.update({"visual.proj": torch.zeros(32, 25)}), WEIGHTS),
        r"does not fit .*size mismatch for visual\.proj",
    ),
    "no tensors": (
        write_pickle(lambda folder, state: {"epoch": 3}, WEIGHTS),
        r"\.bin holds no table of tensors",
    ),
    "list instead of tensors": (
        write_pickle(lambda folder, state: [1], WEIGHTS),
        r"\.bin holds no table of tensors",
    ),
    "training checkpoint with arrays": (
        write_pickle(lambda folder, state: {"state_dict": state, "best": np.float64(0.5)}, WEIGHTS),
        r"\.bin holds numpy\S+ besides tensors, .*run code.*Fix: use the model's \.safetensors",
    ),
    "malicious": (
        write_pickle(malicious_weights, WEIGHTS),
        r"\.bin holds \S*mkdir besides tensors",
    ),
    "malicious raw pickle": (
        write_raw_pickle(WEIGHTS),
        r"\.bin holds other than plain tensors, .*run code",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_unusable_weights_are_refused_and_the_file_is_named(
    folder: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(folder)
    with pytest.raises(ModelFilesError, match=message) as error:
        load_model(folder)
    assert str(folder) in str(error.value)
    assert "Fix: " in str(error.value)
    assert not (folder / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [
        lambda folder, state: state,
        lambda folder, state: {"state_dict": state, "epoch": 3},
        lambda folder, state: {f"module.{name}": value for name, value in state.items()},
    ],
    ids=["state dict", "training checkpoint", "names of parallel training"],
)
def test_pickled_tensors_are_read(folder: Path, content: Any) -> None:
    expected = load_model(folder).encode_image(PIXELS)
    write_pickle(content, WEIGHTS)(folder)
    assert torch.equal(load_model(folder).encode_image(PIXELS), expected)


def test_an_openai_archive_is_read_exactly_and_with_quick_gelu(archive: Path, openai: Any) -> None:
    located = locate_image_model(f"{NAME}/{archive}")
    assert located.quick_gelu
    loaded = load_clip(located, "cpu").model
    state = openai.state_dict()
    found = loaded.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    with torch.inference_mode():
        assert torch.equal(loaded.encode_image(PIXELS), openai.encode_image(PIXELS))


def rewrite_archive(archive: Path, path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def test_the_code_of_an_archive_is_not_run(archive: Path, tmp_path: Path) -> None:
    path = rewrite_archive(
        archive,
        tmp_path / "other.pt",
        lambda name, content: b"no program" if "/code/" in name else content,
    )
    loaded = load_clip(locate_image_model(f"{NAME}/{path}"), "cpu")
    assert loaded.image_weights_hash()
    with pytest.raises(RuntimeError):
        torch.jit.load(str(path))


def test_an_archive_that_holds_more_than_tensors_is_refused(archive: Path, tmp_path: Path) -> None:
    payload = pickle.dumps(Payload(tmp_path / "mark"))
    path = rewrite_archive(
        archive,
        tmp_path / "other.pt",
        lambda name, content: payload if name.endswith("/data.pkl") else content,
    )
    with pytest.raises(ModelFilesError, match=r"other\.pt .*mkdir besides tensors"):
        load_clip(locate_image_model(f"{NAME}/{path}"), "cpu")
    assert not (tmp_path / "mark").exists()


def test_a_damaged_archive_and_one_of_another_architecture_are_refused(
    archive: Path, tmp_path: Path
) -> None:
    path = rewrite_archive(
        archive,
        tmp_path / "other.pt",
        lambda name, content: content[:30] if "/data/" in name else content,
    )
    with pytest.raises(ModelFilesError, match=r"other\.pt is a TorchScript archive that cannot"):
        load_clip(locate_image_model(f"{NAME}/{path}"), "cpu")
    (tmp_path / "cut.pt").write_bytes(archive.read_bytes()[:9999])
    with pytest.raises(ModelFilesError, match=r"cut\.pt is damaged or truncated"):
        load_clip(locate_image_model(f"{NAME}/{tmp_path / 'cut.pt'}"), "cpu")
    config = {**CONFIG, "embed_dim": 25}
    (tmp_path / "wider-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "wider-clip.json")
    with pytest.raises(ModelFilesError, match=r"RN50\.pt does not fit wider-clip: .*size mismatch"):
        load_clip(locate_image_model(f"wider-clip/{archive}"), "cpu")


def test_an_archive_in_a_folder_is_refused_with_a_hint_how_to_name_it(
    archive: Path, folder: Path
) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "open_clip_model.pth").write_bytes(archive.read_bytes())
    with pytest.raises(ModelFilesError, match=r"is a TorchScript archive\. Fix: name it with its"):
        load_model(folder)


@pytest.fixture
def checkpoint(openai: Any, tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        save_file(openai.state_dict(), tmp_path / name)
        return tmp_path / name

    return write


def test_openai_weights_need_an_architecture_with_quick_gelu(
    checkpoint: Callable[[str], Path], openai: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint("clip-OpenAI.safetensors")
    with pytest.raises(ActivationError, match=f"trained with QuickGELU.*use {QUICK}/clip-Open"):
        locate_image_model(f"{NAME}/{path}")
    caplog.set_level(logging.WARNING)
    loaded = load_clip(locate_image_model(f"{QUICK}/{path}"), "cpu").model
    with torch.inference_mode():
        assert torch.equal(loaded.encode_image(PIXELS), openai.encode_image(PIXELS))


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [(NAME, QUICK, "computes GELU"), (QUICK, NAME, "computes QuickGELU")],
)
def test_the_activation_of_a_local_checkpoint_is_logged(
    checkpoint: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
    name: str,
    other: str,
    words: str,
) -> None:
    locate_image_model(f"{name}/{checkpoint('mine.safetensors')}")
    (line,) = caplog.messages
    assert words in line
    assert f"use {other}/mine.safetensors" in line


def test_known_gelu_weights_under_a_quickgelu_name_are_refused_with_the_right_name() -> None:
    with pytest.raises(ModelNotFoundError, match="Fix: ViT-B-32/laion2b_s34b_b79k, which"):
        locate_image_model("ViT-B-32-quickgelu/laion2b_s34b_b79k")


def test_a_folder_named_openai_without_quick_gelu_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_clip(tmp_path / "vit_base_clip.openai", seed=0)
    locate_image_model(f"local-dir:{folder}")
    (line,) = caplog.messages
    assert "computes GELU" in line
    assert "quick_gelu: true" in line
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["quick_gelu"] = True
    path.write_text(json.dumps(config))
    caplog.clear()
    locate_image_model(f"local-dir:{folder}")
    assert not caplog.messages
