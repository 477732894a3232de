"""The HTTP example answers as the scorer does, over a real connection."""

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmctr_pipeline import Scorer
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.defs.servers import server, wait_until
from mmctr_pipeline_tests.rounding import SCORE_TOLERANCE

_SERVE = [sys.executable, "-m", "uvicorn", "examples.http_scorer:app", "--port"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answer(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _is_up(port: int) -> bool:
    try:
        return bool(_answer(port, "/health")["model"])
    except OSError:
        return False


@pytest.mark.slow
def test_the_service_gives_the_scorers_probabilities_and_names_wrong_ids(
    finished_run: FinishedRun,  # noqa: F811
    tmp_path: Path,
) -> None:
    pytest.importorskip("fastapi")
    storage, port, log = finished_run.deployment.storage, _free_port(), tmp_path / "log"
    environment = os.environ | {"MMCTR_STORAGE_DIR": str(storage)}
    scorer = Scorer.load(storage)
    ids = scorer.dataset.items.ids[:6].tolist()
    with server([*_SERVE, str(port)], environment, log) as process:
        wait_until(lambda: _is_up(port), process, log)
        body = {"candidates": ids[:4], "history": ids[4:], "user": 10**9}
        np.testing.assert_allclose(
            _answer(port, "/score", body),
            scorer.score(ids[:4], ids[4:], 10**9),
            atol=SCORE_TOLERANCE,
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            _answer(port, "/score", {"candidates": ["seven"]})
        assert error.value.code == 422
        detail = json.load(error.value)["detail"]
        assert detail == "item 'seven': the ids of this catalogue are integers"
