"""Train and evaluate the tiny CLIP that ships with the package, on sample datasets on disk.

    mmctr sample train_sample --seed 1001 --scale 10
    mmctr sample test_sample --seed 2002
    python -m tools.tiny_clip.train --train train_sample --evaluate test_sample

Training writes `open_clip_config.json` and `open_clip_model.safetensors` (float16), which
`open_clip.create_model_and_transforms("local-dir:FOLDER")` loads. Evaluation, on a sample dataset
unseen in training, prints retrieval and linear probes as one line of JSON.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch.nn import functional

from mmctr_pipeline import encoders
from mmctr_pipeline.files.progress import Progress
from tools.tiny_clip.captioned_images import CaptionedImages, read_sample

logger = logging.getLogger(__name__)

FOLDER = Path(encoders.__file__).parent / "tiny_clip"

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 64,
        "patch_size": 8,
        "width": 64,
        "head_width": 32,
        "layers": 3,
        "mlp_ratio": 2.0,
    },
    # The table of the 49,408 tokens is most of the file, so its width determines the file's size.
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49_408,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "size": [64, 64],
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "fill_color": 0,
}

_WEIGHT_DECAY = 0.05
_GAP_SHARE = 0.3
"""Share of the tokens that training blanks out."""


def train(
    data: CaptionedImages,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> CLIP:
    """Train both towers from scratch: covers against titles, captions, and both together.

    Titles hardly show the style, so the image tower learns it from captions. For a cover, the texts
    of all items of its style and category count as correct, and tokens are blanked at random.
    Otherwise the towers would memorise the few thousand titles.

    Parameters
    ----------
    data
        The training items.
    seed
        Seed of initialisation, order, augmentation and blanked tokens.
    epochs
        Passes over the data.
    batch_size
        Items per step; the remainder of an epoch is dropped.
    learning_rate
        Peak of the one-cycle schedule.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = CLIP(**MODEL_CONFIG)
    n_steps = epochs * (len(data) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, n_steps, pct_start=0.1)
    progress = Progress(logger, "tiny CLIP", n_steps, "steps")
    kind = data.style * (data.category.max() + 1) + data.category
    for epoch in range(epochs):
        losses = []
        order = torch.randperm(len(data), generator=random)
        for rows in order[: len(data) // batch_size * batch_size].split(batch_size):
            image = functional.normalize(model.encode_image(_augment(data.image[rows], random)))
            scaled = image * model.logit_scale.exp().clamp(max=100.0)
            is_correct = (kind[rows][:, None] == kind[rows]).float()
            loss = torch.zeros(())
            for tokens in (data.title, data.caption, data.captioned_title):
                text = model.encode_text(_with_gaps(tokens[rows], random))
                logits = scaled @ functional.normalize(text).T
                loss = loss + _contrastive_loss(logits, is_correct) / 3
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress.advance()
        logger.info(f"tiny CLIP: epoch {epoch + 1} of {epochs}, mean loss {np.mean(losses):.3f}")
    _zero_unused_tokens(model, data)
    return model.eval()


def save(model: CLIP, folder: Path) -> None:
    """Write weights (float16) and configuration in open_clip's format."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    path = folder / "open_clip_model.safetensors"
    save_file(weights, path)
    path.chmod(0o644)  # safetensors makes it readable only by its owner
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path = FOLDER) -> CLIP:
    """Load a saved model with open_clip, as the pipeline does."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval()


def read(folder: Path) -> CaptionedImages:
    """Read a sample dataset with this model's preprocessing; raises as `read_sample` does."""
    preprocess = image_transform_v2(PreprocessCfg(**PREPROCESS_CONFIG), is_train=False)
    context_length = MODEL_CONFIG["text_cfg"]["context_length"]
    return read_sample(folder, preprocess, open_clip.SimpleTokenizer(context_length=context_length))


@torch.no_grad()
def evaluate(model: CLIP, data: CaptionedImages) -> dict[str, float | int]:
    """Evaluate on N items; `*_by_chance` is the value of a random guess.

    `recall_at_10`: share of covers whose own title is among the ten nearest of the N titles.
    `top_title_*`: share of covers whose nearest title has the same style, category, or both.
    `caption_style_accuracy`: share of covers whose nearest caption names the correct style.
    `probe_*`: accuracy of a linear classifier on raw vectors, fitted on every other item and
    evaluated on the rest. `image_norm`: mean length of the raw image vectors.
    """
    raw = torch.cat([model.encode_image(part) for part in data.image.split(512)])
    image = functional.normalize(raw)
    titles = torch.cat([model.encode_text(part) for part in data.title.split(512)])
    title = functional.normalize(titles)
    captions, first = np.unique(data.caption.numpy(), axis=0, return_index=True)
    caption = functional.normalize(model.encode_text(torch.from_numpy(captions)))
    nearest = (image @ title.T).topk(min(10, len(data)), dim=1).indices
    own = torch.arange(len(data))[:, None]
    same_style = data.style[nearest[:, 0]] == data.style
    same_category = data.category[nearest[:, 0]] == data.category
    captioned = data.style[torch.from_numpy(first)][(image @ caption.T).argmax(dim=1)]
    n_styles, n_categories = len(data.style.unique()), len(data.category.unique())
    return {
        "n_items": len(data),
        "n_skipped": data.n_skipped,
        "recall_at_10": _share((nearest == own).any(dim=1)),
        "recall_at_10_by_chance": round(10 / len(data), 4),
        "top_title_style": _share(same_style),
        "top_title_style_by_chance": round(1 / n_styles, 4),
        "top_title_category": _share(same_category),
        "top_title_category_by_chance": round(1 / n_categories, 4),
        "top_title_both": _share(same_style & same_category),
        "top_title_both_by_chance": round(1 / n_styles / n_categories, 4),
        "caption_style_accuracy": _share(captioned == data.style),
        "probe_style": _linear_probe(raw, data.style),
        "probe_category": _linear_probe(raw, data.category),
        "image_norm": round(raw.norm(dim=1).mean().item(), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train (`--train`), evaluate (`--evaluate`), or both."""
    parser = argparse.ArgumentParser(description="train and evaluate the tiny CLIP")
    parser.add_argument("--train", type=Path, help="sample dataset to train on")
    parser.add_argument("--evaluate", type=Path, help="another sample dataset to evaluate on")
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if options.train is None and options.evaluate is None:
        parser.error("give --train, --evaluate, or both")
    if options.train is not None:
        model = train(
            read(options.train),
            seed=options.seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
        )
        save(model, options.model)
    if options.evaluate is not None:
        results = evaluate(load(options.model), read(options.evaluate))
        sys.stdout.write(json.dumps(results) + "\n")


def _augment(image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Mirror half of the images, and shift the colours of all slightly."""
    mirror = torch.rand(len(image), generator=random) < 0.5
    image = torch.where(mirror[:, None, None, None], image.flip(-1), image)
    return image + 0.2 * torch.randn(len(image), 3, 1, 1, generator=random)


def _with_gaps(tokens: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Blank some tokens, but never the first or the end mark, which has the largest number."""
    gap = torch.rand(tokens.shape, generator=random) < _GAP_SHARE
    gap &= tokens < tokens.amax(dim=1, keepdim=True)
    gap[:, 0] = False
    return tokens.masked_fill(gap, 0)


def _contrastive_loss(logits: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy, with equal target probability for all correct pairs."""
    rows = functional.cross_entropy(logits, correct / correct.sum(dim=1, keepdim=True))
    columns = functional.cross_entropy(logits.T, correct.T / correct.T.sum(dim=1, keepdim=True))
    return (rows + columns) / 2


@torch.no_grad()
def _zero_unused_tokens(model: CLIP, data: CaptionedImages) -> None:
    """Zero the embeddings of tokens that no text has: they are random and would not compress."""
    used = torch.zeros(len(model.token_embedding.weight), dtype=torch.bool)
    for tokens in (data.captioned_title, data.caption, data.title):
        used[tokens.unique()] = True
    model.token_embedding.weight[~used] = 0.0


def _linear_probe(vectors: torch.Tensor, kind: torch.Tensor) -> float:
    """Return the accuracy of a ridge classifier on every other item, fitted on the rest."""
    inputs = (vectors - vectors.mean(dim=0)).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    train_part, test_part = inputs[::2], inputs[1::2]
    targets = functional.one_hot(kind[::2], int(kind.max()) + 1).double()
    ridge = 1e-3 * len(train_part) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(train_part.T @ train_part + ridge, train_part.T @ targets)
    return _share((test_part @ weights).argmax(dim=1) == kind[1::2])


def _share(true: torch.Tensor) -> float:
    return round(true.double().mean().item(), 4)


if __name__ == "__main__":
    main()
