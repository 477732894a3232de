"""A quickly trained model with hostile titles, and chromium to look at its report."""

import dataclasses
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from mmctr_pipeline.data.images import index_images
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.pipeline import score
from mmctr_pipeline.reporting.report.inputs import ReportInputs, sampled_test_rows
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.browser import chromium
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

HACK = "document.documentElement.dataset.hacked=1"
HOSTILE_TITLES = [
    f'<img src=x onerror="{HACK}">',
    f"</script><script>{HACK}</script>",
    f'"><svg onload="{HACK}">',
    f"'{{{{ inputs }}}} ${{{HACK}}} <!--",
    "عنوان الفيديو من اليمين",
    "猫の動画 🐈 & friends",
    "datum.x]] </title></style>",
]
"""Titles of the items from the second on; the first item has no vector."""

N_ITEMS = 60


def report_inputs(folder: Path) -> ReportInputs:
    """Train a small model and return the inputs of its report; every third item has a cover."""
    dataset, vectors = small_sample(n_items=N_ITEMS)
    titles = pa.array(
        [None, *HOSTILE_TITLES, *(f"video {n}" for n in range(N_ITEMS - 1 - len(HOSTILE_TITLES)))]
    )
    dataset = dataclasses.replace(
        dataset,
        items=dataclasses.replace(dataset.items, title=titles),
        fingerprint="fingerprint-1",
    )
    generator = np.random.default_rng(0)
    for item in range(1, N_ITEMS + 1, 3):
        pixels = generator.integers(0, 255, (90, 160, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{item}.png")
    (folder / "4.png").write_bytes(b"no picture")
    vectors = ItemVectors(vectors.fused, text=dataclasses.replace(vectors.fused, identity="text"))
    device = torch.device("cpu")
    trained = train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, device)
    model = small_model_file(trained, vectors)
    rows = dataset.test.take(sampled_test_rows(dataset))
    assert model.valid_probabilities is not None
    return ReportInputs(
        model=model,
        version="20260102T030405Z-0123abcd",
        dataset=dataset,
        vectors=vectors,
        images=index_images(folder),
        valid_scores=model.valid_probabilities.numpy(),
        test_scores=score(model, dataset, rows, vectors, device),
    )


def shown_by_browser(page: Path, width: int = 1280, dark: bool = False) -> str:
    """Open a file in headless chromium without network and return its document as HTML."""
    command = chromium()
    assert command is not None
    with tempfile.TemporaryDirectory() as profile:
        result = subprocess.run(
            [
                *(command, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                *(f"--user-data-dir={profile}", f"--window-size={width},900"),
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                # Time passes only while the page has something to do.
                *("--virtual-time-budget=30000", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    return result.stdout
