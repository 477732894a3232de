"""The schema of an export: what a client gives its programs, and what it must know of them."""

from typing import Any

from mmctr_pipeline.data.schemas import MAX_LEVEL
from mmctr_pipeline.serving.programs import CANDIDATES, COMPILED, ROWS, TABLES
from mmctr_pipeline.serving.scorer import Scorer


def export_schema(scorer: Scorer, differences: dict[str, float]) -> dict[str, Any]:
    """Return a JSON schema of the programs' inputs; `mmctr` has what a client must know besides."""
    n_users, unknown = scorer.users.unknown, scorer.items.unknown
    model, most = scorer.model, scorer.max_history
    newest = "all items" if most is None else f"the newest {most} items"

    def integer(largest: int) -> dict[str, Any]:
        return {"type": "integer", "minimum": 0, "maximum": largest}

    def integers(largest: int, description: str) -> dict[str, Any]:
        return {"type": "array", "items": integer(largest), "description": description}

    def schema(title: str, user: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
        properties = {
            "user": user,
            "item": integers(unknown, f"(B,) rows of items; {unknown} for an unknown item"),
            "likes_level": integers(MAX_LEVEL, "(B,) levels of the items"),
            "views_level": integers(MAX_LEVEL, "(B,) levels of the items"),
            **others,
        }
        return {
            "title": title,
            "type": "object",
            "required": list(properties),
            "properties": properties,
            "additionalProperties": False,
        }

    user = f"rows of users; {n_users} for an unknown user"
    offsets = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": 2,
        "description": "(B + 1,) where each history begins, and the last one ends",
    }
    rows = schema(
        f"{ROWS}: rows, each with a user and a history of its own",
        user=integers(n_users, f"(B,) {user}"),
        history=integers(
            unknown,
            "(T,) rows of the items of all histories, one history after the other, each "
            f"oldest first, of each {newest}",
        ),
        offsets=offsets,
    )
    past = integers(unknown, f"(L,) rows of the items of the history, oldest first, {newest}")
    candidates = schema(
        f"{CANDIDATES} and {COMPILED}: candidates of one user",
        user={**integer(n_users), "description": user},
        history=past if most is None else {**past, "maxItems": most},
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Inputs of {model.model_config['name']}: int64 tensors",
        "anyOf": [rows, candidates],
        "mmctr": {
            "output": "(B,) float32 click probabilities",
            "tables": f"the last input, as torch.load reads it from {TABLES}",
            "compiled_inputs": [*candidates["required"], *scorer.items.tables()],
            "unknown_user": n_users,
            "unknown_item": unknown,
            "max_history": most,
            "model": model.model_config["name"],
            "created_at": model.created_at,
            "data_fingerprint": model.data_fingerprint,
            "libraries": dict(model.library_versions),
            "largest_difference_to_pipeline": differences,
        },
    }
