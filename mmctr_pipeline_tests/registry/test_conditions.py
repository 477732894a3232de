"""Model files record the conditions of their run; a sentence reports each that has changed."""

from pathlib import Path

import torch

from mmctr_pipeline.registry.conditions import changed_conditions, library_versions, run_conditions
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

CPU = torch.device("cpu")


def test_a_model_file_keeps_the_conditions_of_its_run(tmp_path: Path) -> None:
    dataset, vectors = small_sample(n_train=300, n_valid=100)
    trained = train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, CPU)
    path = tmp_path / "model.pt"
    small_model_file(trained, vectors).save(path)
    loaded = ModelFile.load(path)
    assert loaded.conditions == run_conditions(CPU, "auto")
    assert loaded.conditions["threads"] == torch.get_num_threads()
    assert loaded.conditions["CPU capability"] == torch.backends.cpu.get_cpu_capability()
    assert loaded.conditions["number format"] in ("float32", "bfloat16")
    assert loaded.vector_contents == {"fused": vectors.fused.content_hash()}
    assert len(loaded.valid_scores) == 64
    record = loaded.history["epochs"][0]
    assert 0 < record["gradient_norm"] <= record["largest_gradient_norm"]


def test_each_changed_condition_is_reported_in_a_sentence() -> None:
    now = library_versions() | run_conditions(CPU, "float32")
    assert changed_conditions(now, now) == []
    before = {**now, "threads": 64, "code of training": "0123", "torch": "2.9.0"}
    del before["processor"]
    assert changed_conditions(before, now) == [
        f"recorded with torch 2.9.0, now {now['torch']}: the last digits may differ",
        f"recorded with threads 64, now {now['threads']}: the last digits may differ",
        "recorded with code of training 0123, now "
        f"{now['code of training']}: the results may differ",
        "not recorded, so the results may differ: processor",
    ]
