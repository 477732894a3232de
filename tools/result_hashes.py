"""Print hashes of the pipeline's results, to show that a refactoring changed none of them.

Runs `make demo`, `mmctr leaderboard` with two rows of one epoch, and the preset
`similarity_attention` on a small sample dataset, each in its own folder under FOLDER. Prints one
JSON object with AUCs and with hashes of weights, submissions and scores. Run this script on two
commits, on the same machine with the same OMP_NUM_THREADS, and compare the outputs:

    python tools/result_hashes.py FOLDER > before.json
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
MMCTR = ROOT / ".venv/bin/mmctr"

ONE_EPOCH = "extends: {}\ntraining: {{max_epochs: 1, batch_size: 512}}\n"
SMALL_PRESET = """\
extends: similarity_attention
encoders: {image: {model: tiny-clip}}
training: {max_epochs: 2, batch_size: 512}
checks: {auc_floor: 0.5}
"""


def main(folder: Path) -> None:
    """Run the demo, the small preset and the leaderboard, and print their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    demo, small = folder / "demo", folder / "small"
    _run(["make", "demo"], demo)
    _run([MMCTR, "sample", folder / "data", "--scale", "0.25", "--seed", "5"], small)
    preset = folder / "similarity_attention_small.yaml"
    preset.write_text(SMALL_PRESET)
    _run(["make", "run"], small, MMCTR_DATA_DIR=folder / "data", MMCTR_PRESET=preset)
    hashes = {"demo": _artefacts(demo), "similarity_attention": _artefacts(small)}
    hashes["leaderboard"] = _leaderboard(folder)
    sys.stdout.write(json.dumps(hashes, indent=2) + "\n")


def _leaderboard(folder: Path) -> dict[str, Any]:
    presets = []
    for name in ("din", "similarity_attention"):
        preset = folder / f"{name}_one_epoch.yaml"
        preset.write_text(ONE_EPOCH.format(name))
        presets.append(preset)
    size = ["--train-rows", "20000", "--valid-rows", "8000", "--minutes", "0"]
    storage = folder / "leaderboard"
    _run([MMCTR, "leaderboard", *presets, *size], storage, MMCTR_PRESET="sample")
    rows = {}
    for result in storage.glob("leaderboard/*/result.json"):
        content = json.loads(result.read_text())
        scores = hashlib.sha256((result.parent / "scores.npy").read_bytes()).hexdigest()
        rows[content["n_parameters"]] = {
            "scores": scores,
            "auc": content["evaluation"]["auc"],
            "selection_auc": content["selection_auc"],
            "epochs": content["epochs"],
        }
    return {str(n_parameters): rows[n_parameters] for n_parameters in sorted(rows)}


def _artefacts(storage: Path) -> dict[str, Any]:
    model = torch.load(storage / "latest_model.pt", weights_only=True)
    weights = hashlib.sha256()
    for name, tensor in sorted(model["state_dict"].items()):
        weights.update(name.encode())
        weights.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    submission = (storage / "submission.csv").read_bytes()
    return {
        "weights": weights.hexdigest(),
        "submission": hashlib.sha256(submission).hexdigest(),
        "valid_auc": model["metrics"]["valid_auc"],
        "epochs": len(model["history"]["epochs"]),
    }


def _run(command: list[Any], storage: Path, **environment: Any) -> None:
    unset = ("MMCTR_DATA_DIR", "MMCTR_PRESET")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    environment["MMCTR_STORAGE_DIR"] = storage
    changed = {name: str(value) for name, value in environment.items()}
    words = [str(word) for word in command]
    subprocess.run(words, cwd=ROOT, env=inherited | changed, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
