"""An HTTP service that scores candidates with the champion of a storage folder.

    make install EXTRAS=serve
    MMCTR_STORAGE_DIR=storage .venv/bin/uvicorn examples.http_scorer:app --port 8000
    curl localhost:8000/score -H 'Content-Type: application/json' \
        -d '{"history": [12, 7], "candidates": [5, 6, 99], "user": 1203}'

A new model is used after a restart. http://localhost:8000/docs describes the requests.
"""

import os

import fastapi
import pydantic

from mmctr_pipeline import Scorer
from mmctr_pipeline.serving.errors import ScorerError

app = fastapi.FastAPI(title="mmctr-pipeline")
scorer = Scorer.load(os.environ.get("MMCTR_STORAGE_DIR", "storage"))


class Request(pydantic.BaseModel):
    """Candidates to score for one user; ids that the model does not know are allowed."""

    candidates: list[int | str] = pydantic.Field(min_length=1, max_length=10_000)
    history: list[int | str] = pydantic.Field([], description="clicked items, oldest first")
    user: int | str | None = None


@app.post("/score")
def score(request: Request) -> list[float]:
    """Return the click probability of each candidate."""
    try:
        return scorer.score(request.candidates, request.history, request.user).tolist()
    except ScorerError as error:
        raise fastapi.HTTPException(422, str(error)) from error


@app.get("/health")
def health() -> dict[str, str]:
    """Return which model answers."""
    return {"model": scorer.model.model_config["name"], "trained": scorer.model.created_at}
