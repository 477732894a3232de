"""Encode covers with CLIP's ResNet-50: ours against open_clip.

    python -m benchmarks.encode_images [--n N]

The pictures are N generated JPEG files of 640 x 480 pixels with as much detail as photographs. The
weights are random, which makes no difference to the speed. `peer` works like recipe A: open_clip's
preprocessing and one forward pass per image in float32. `best` is open_clip at its fastest: a
DataLoader with two workers, batches of 16, channels last, and bfloat16 if the machine has
instructions for it. Times include reading and decoding on every side, but not loading the model.
`floor_per_second` is the rate that would result if only the products of the forward pass took time
and ran as fast as one large product.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import alternate, command_line, final_line, medians, product_rate
from mmctr_pipeline.environment import share_cores

Encode = Callable[[Sequence[Path]], np.ndarray]

# Multiplications and additions of CLIP's ResNet-50 at 224 pixels, counted layer by layer. Of the
# attention pooling's outputs, only the one that is used counts.
OPERATIONS = 2 * 5.6e9


def ours(folder: Path) -> Encode:
    """Encode like the pipeline, without the vector store."""
    from mmctr_pipeline.encoders.config import ImageEncoderConfig
    from mmctr_pipeline.encoders.image.inference import open_image_encoder

    encoder = open_image_encoder(ImageEncoderConfig(model=f"local-dir:{folder / 'model'}"), "cpu")

    def encode(paths: Sequence[Path]) -> np.ndarray:
        files = [(path, hashlib.sha256(path.read_bytes()).digest()) for path in paths]
        return encoder.encode(files).vectors

    return encode


def peer(folder: Path) -> Encode:
    """Encode one image at a time."""
    import open_clip
    import torch
    from PIL import Image

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder / 'model'}")
    model.eval()

    def encode(paths: Sequence[Path]) -> np.ndarray:
        with torch.no_grad():
            parts = [model.encode_image(preprocess(Image.open(path))[None]) for path in paths]
        return torch.cat(parts).numpy()

    return encode


def best(folder: Path) -> Encode:
    """Encode batches from a DataLoader."""
    import open_clip
    import torch
    from PIL import Image

    from mmctr_pipeline.precision import dtype_for

    dtype = dtype_for("auto", "cpu")
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder / 'model'}")
    model = model.eval().to(dtype).to(memory_format=torch.channels_last)

    class Pictures(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, paths: Sequence[Path]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, row: int) -> torch.Tensor:
            return preprocess(Image.open(self.paths[row]))

    def encode(paths: Sequence[Path]) -> np.ndarray:
        loader = torch.utils.data.DataLoader(Pictures(paths), batch_size=16, num_workers=2)
        with torch.inference_mode():
            parts = [
                model.encode_image(batch.to(dtype).to(memory_format=torch.channels_last)).float()
                for batch in loader
            ]
        return torch.cat(parts).numpy()

    return encode


SIDES: dict[str, Callable[[Path], Encode]] = {"ours": ours, "peer": peer, "best": best}


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, list(SIDES), rounds=3)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    share_cores()
    if chosen.side:
        paths = sorted((chosen.folder / "images").glob("*.jpg"))
        encode = SIDES[chosen.side](chosen.folder)
        encode(paths[:16])
        start = time.perf_counter()
        vectors = encode(paths)
        seconds = time.perf_counter() - start
        assert vectors.shape == (len(paths), 1024)
        print(json.dumps({"seconds": seconds}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_pictures(Path(scratch) / "images", chosen.n)
        _write_model(Path(scratch) / "model")
        results = alternate(
            "benchmarks.encode_images", list(SIDES), chosen.rounds, ["--folder", scratch]
        )
    seconds = {side: medians(rounds)["seconds"] for side, rounds in results.items()}
    floor = product_rate() / OPERATIONS
    final_line(
        name="encode_images",
        ours=chosen.n / seconds["ours"],
        peer=chosen.n / seconds["peer"],
        ratio=seconds["peer"] / seconds["ours"],
        unit="images/s",
        best=chosen.n / seconds["best"],
        ratio_best=seconds["best"] / seconds["ours"],
        floor_per_second=floor,
        share_of_floor=chosen.n / seconds["ours"] / floor,
        images=chosen.n,
    )


def write_pictures(folder: Path, n_pictures: int, size: tuple[int, int] = (640, 480)) -> None:
    """Write JPEG files with strong coarse and weak fine detail, like photographs."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(n_pictures):
        rng = np.random.default_rng(number)
        picture = np.full((size[1], size[0], 3), 128.0, dtype=np.float32)
        for grid in (3, 6, 12, 24, 48, 96, 192):
            coarse = rng.normal(0, 60 * (3 / grid) ** 0.7, (grid, grid, 3)).astype(np.float32)
            for channel in range(3):
                layer = Image.fromarray(coarse[..., channel]).resize(size, Image.Resampling.BICUBIC)
                picture[..., channel] += np.asarray(layer)
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:05}.jpg", quality=90)


def _write_model(folder: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    definition: dict[str, Any] = dict(open_clip.get_model_config("RN50") or {})
    model = open_clip.create_model("RN50")
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    config = {"model_cfg": definition, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


if __name__ == "__main__":
    main()
