"""Small encoder models with random weights, in the formats of their libraries."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import AutoTokenizer, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from mmctr_pipeline.encoders.locate import locate_text_model

CLIP_DIM = 24
_CLIP = {
    "embed_dim": CLIP_DIM,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
}
_CLIP_PIXELS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "size": 32}

TEXT_WIDTH = 32
LONGEST_TEXT = 24


def write_clip(folder: Path, seed: int) -> Path:
    """Write a tiny open_clip model with random weights, in open_clip's own format."""
    torch.manual_seed(seed)
    return save_clip(folder, random_clip(_CLIP), _CLIP, _CLIP_PIXELS)


def random_clip(config: dict[str, Any]) -> Any:
    """Return an open_clip model with random weights."""
    config = copy.deepcopy(config)  # the constructor changes it
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).eval()


def save_clip(folder: Path, model: Any, config: dict[str, Any], pixels: dict[str, Any]) -> Path:
    """Write a model in open_clip's own format into a new folder."""
    folder.mkdir()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


def write_sentence_model(
    folder: Path, kind: str, *modules: Any, prompts: dict[str, str] | None = None, dim: int = 0
) -> Path:
    """Write a `bert` or a `distilbert` followed by `modules`, as sentence-transformers saves it.

    It has the tokeniser of all-MiniLM-L6-v2, takes `LONGEST_TEXT` tokens, and uses the first of
    `prompts` by default. With `dim` its vectors are cut to that many dimensions.
    """
    torch.manual_seed(0)
    parts = folder.with_name(f"{folder.name}-parts")
    _random_transformer(kind).save_pretrained(parts)
    AutoTokenizer.from_pretrained(locate_text_model("all-MiniLM-L6-v2").folder).save_pretrained(
        parts
    )
    prompts = prompts or {}
    model = SentenceTransformer(
        modules=[Transformer(str(parts), max_seq_length=LONGEST_TEXT), *modules],
        prompts=prompts,
        default_prompt_name=next(iter(prompts), None),
        truncate_dim=dim or None,
        device="cpu",
    )
    model.save(str(folder), create_model_card=False)
    return folder


def _random_transformer(kind: str) -> Any:
    # Large weights, so that no two texts get similar vectors.
    if kind == "bert":
        bert = BertConfig(
            hidden_size=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.3,
        )
        return BertModel(bert)
    distilbert = DistilBertConfig(
        dim=TEXT_WIDTH,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return DistilBertModel(distilbert)
