"""Exported programs give the pipeline's probabilities in a process that has torch alone."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmctr_pipeline import Scorer
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.config import (
    DinConfig,
    FeatureConfig,
    ModelConfig,
    SimilarityAttentionConfig,
)
from mmctr_pipeline.pipeline import train
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.serving.export import export
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.models.zoo import SMALL_MODELS
from mmctr_pipeline_tests.training.small_sample import (
    QUICK_TRAINING,
    SMALL_MODEL,
    small_sample,
)

CPU = torch.device("cpu")
FEATURES = FeatureConfig(
    user="factors", item_levels=True, embedding_dim=8, level_embedding_dim=4, max_history=8
)
SIMILARITY = SimilarityAttentionConfig(
    features=dataclasses.replace(FEATURES, projection_dim=12, unknown_rate=0.2),
    learned_dim=6,
    attention_hidden_dims=(8, 4),
    hidden_dims=(16, 8),
)
MODELS: dict[str, ModelConfig] = {
    "improved_mmctr": SMALL_MODEL,
    "din": DinConfig(features=FEATURES, attention_hidden_dims=(8, 4), hidden_dims=(16, 8)),
    "similarity_attention": SIMILARITY,
}
SCORE_WITH_TORCH_ALONE = """
import json, os, sys
import torch
folder, all_requests = sys.argv[1], json.load(open(sys.argv[2]))
tables = torch.load(folder + "/items.pt", weights_only=True)
found = {}
for file, requests in all_requests.items():
    if file == "compiled.pt2":
        from torch._C._aoti import AOTIModelPackageLoader
        loader = AOTIModelPackageLoader(f"{folder}/{file}", "model", False, 1, -1)
        def program(**inputs):
            names = "user", "item", "likes_level", "views_level", "history"
            tensors = [inputs[name] for name in names]
            return loader.boxed_run([*tensors, *inputs["tables"].values()])[0]
    else:
        program = torch.export.load(f"{folder}/{file}").module()
    found[file] = []
    with torch.no_grad():
        for request in requests:
            inputs = {name: torch.tensor(ids, dtype=torch.int64) for name, ids in request.items()}
            found[file].append(program(**inputs, tables=tables).tolist())
assert not any(name.startswith(("mmctr", "pyarrow", "dagster")) for name in sys.modules)
print(json.dumps(found))
"""


def scorer_of(config: ModelConfig) -> Scorer:
    """Train for a short epoch in float32."""
    dataset, fused = small_sample()
    vectors = ItemVectors(fused.fused, text=fused.fused, image=fused.fused)
    training = dataclasses.replace(
        QUICK_TRAINING, max_epochs=1, precision="float32", calibration="monotone"
    )
    trained = train(dataset, vectors, config, training, CPU)
    model = ModelFile.from_trained(
        trained, vectors, data_fingerprint="", resolved_config={}, run_key=""
    )
    return Scorer(model, dataset, vectors, CPU)


def rows_request(
    scorer: Scorer, items: list[int], pasts: list[list[int]], user: int
) -> dict[str, Any]:
    """Return the inputs of the program for rows, as a client makes them from the tables."""
    place = {item: place for place, item in enumerate(scorer.dataset.items.ids.tolist())}
    rows, most = scorer.items.row_of_item, scorer.max_history or 10**9

    def row(item: int) -> int:
        return int(rows[place[item]]) if item in place else scorer.items.unknown

    return {
        "user": [int(scorer.users.row(user))] * len(items),
        "item": [row(item) for item in items],
        "likes_level": [0] * len(items),
        "views_level": [0] * len(items),
        "history": [row(item) for past in pasts for item in past[-most:]],
        "offsets": np.cumsum([0, *(min(len(past), most) for past in pasts)]).tolist(),
    }


def candidates_request(rows: dict[str, Any]) -> dict[str, Any]:
    """Return rows of one user as inputs of the program for candidates."""
    columns = {name: rows[name] for name in ("item", "likes_level", "views_level")}
    history = rows["history"][: rows["offsets"][1]]
    return {**columns, "user": rows["user"][0], "history": history}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_process_with_torch_alone_gets_the_pipelines_probabilities(
    name: str, tmp_path: Path
) -> None:
    scorer = scorer_of(MODELS[name])
    has_compiler = shutil.which("g++") is not None
    schema = export(scorer, tmp_path / "model", compile=has_compiler)
    assert schema == json.loads((tmp_path / "model" / "schema.json").read_text())
    assert schema["mmctr"]["largest_difference_to_pipeline"]["float32"] < 1e-5

    past = [5, 9, 10**6, 7, 8, 7, 3, 2, 60, 11, 12]  # longer than max_history, one item unknown
    candidates = [4, 1, 10**7, 60, 17]
    rows = [
        rows_request(scorer, candidates, [past] * len(candidates), user=3),
        rows_request(scorer, [4], [past[:2]], user=10**9),
        rows_request(scorer, [4, 6], [[], []], user=3),
        rows_request(scorer, [4], [[]], user=3),
    ]
    of_users = [candidates_request(each) for each in rows]
    requests = {"model.pt2": rows, "candidates.pt2": of_users}
    if has_compiler:
        requests["compiled.pt2"] = of_users
    for request in rows + of_users:
        jsonschema.validate(request, schema)
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    command = [sys.executable, "-I", "-c", SCORE_WITH_TORCH_ALONE]
    found = subprocess.run(
        [*command, str(tmp_path / "model"), str(tmp_path / "requests.json")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    expected = [
        scorer.score(candidates, past, user=3),
        scorer.score([4], past[:2], user=10**9),
        scorer.score([4, 6], user=3),
        scorer.score([4], user=3),
    ]
    for answers in json.loads(found.stdout).values():
        for own, pipeline in zip(answers, expected, strict=True):
            np.testing.assert_allclose(own, pipeline, atol=1e-5)
    assert len({*np.round(expected[0], 6).tolist()}) > 2


@pytest.mark.slow
def test_the_tables_of_an_export_name_the_rows_and_the_learned_embeddings(tmp_path: Path) -> None:
    scorer = scorer_of(MODELS["improved_mmctr"])
    folder = tmp_path / "exports" / "model"
    export(scorer, folder)
    export(scorer, folder)  # replaces the first
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    items, users, embeddings = (
        pq.read_table(folder / f"{name}.parquet") for name in ("items", "users", "item_embeddings")
    )
    assert items.column("row").to_pylist() == scorer.items.row_of_item.tolist()
    assert users.column("row").to_pylist() == users.column("user_id").to_pylist()
    weight = scorer.module.state_dict()["item_embedding.weight"].numpy()
    found = np.stack(embeddings.column("item_embedding").to_pylist())
    np.testing.assert_array_equal(found, weight[scorer.items.row_of_item])


@pytest.mark.slow
@pytest.mark.parametrize("error", [1e-4, np.nan])
def test_a_program_with_other_probabilities_is_not_written(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any, **options: Any) -> np.ndarray:
        return score(*args, **options) + np.float32(error)

    monkeypatch.setattr("mmctr_pipeline.serving.export.score", wrong)
    with pytest.raises(ScorerError, match="a program differs from improved_mmctr by"):
        export(scorer_of(MODELS["improved_mmctr"]), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_compiling_without_a_compiler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ScorerError, match=r"no-such-compiler: no such C\+\+ compiler. Fix: install"
    ):
        export(scorer_of(MODELS["improved_mmctr"]), tmp_path / "model", compile=True)
    assert not (tmp_path / "model").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ScorerError, match="is not empty and is not an earlier export"):
        export(scorer_of(MODELS["improved_mmctr"]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_no_folder_to_export_to(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(ScorerError, match=r"model is a file\. Fix: name a new folder"):
        export(scorer_of(MODELS["improved_mmctr"]), tmp_path / "model")


@pytest.mark.slow
def test_an_export_may_replace_the_empty_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exported").mkdir()
    monkeypatch.chdir(tmp_path / "exported")
    export(scorer_of(MODELS["improved_mmctr"]), Path())
    assert (tmp_path / "exported" / "schema.json").is_file()


@pytest.mark.slow
def test_the_documented_programs_give_equal_probabilities(tmp_path: Path) -> None:
    """The snippets of docs/serving.md run as they are written, in a process of their own."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    section = text[text.index("## Programs that need torch alone") :]
    snippets = [block.split("```")[0] for block in section.split("```python")[1:]]
    assert len(snippets) == 2
    schema = export(scorer_of(SIMILARITY), tmp_path / "exported", compile=True)
    assert schema["mmctr"]["compiled_inputs"][:5] == [
        *("user", "item", "likes_level", "views_level", "history")
    ]
    found = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(snippets)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    first, second = found.stdout.splitlines()
    assert first == second
    assert first.startswith("tensor([0.")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SMALL_MODELS) - set(MODELS)))
def test_every_model_of_the_zoo_can_be_exported(name: str, tmp_path: Path) -> None:
    schema = export(scorer_of(SMALL_MODELS[name]), tmp_path / "model")
    assert schema["mmctr"]["largest_difference_to_pipeline"]["float32"] < 1e-5
