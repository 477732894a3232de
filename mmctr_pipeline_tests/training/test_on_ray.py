"""Training on two ranks of a real Ray cluster, compared with training in one process."""

import dataclasses
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmctr_pipeline.models.config import DinConfig, FeatureConfig, ModelConfig
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline_tests.ray_cluster import RayCluster, ray_cluster
from mmctr_pipeline_tests.training.small_sample import small_sample

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
MODEL = DinConfig(
    # Every item has the same tag. After BatchNorm such an input has no gradient, and AdamW would
    # train its weights by rounding errors.
    features=FeatureConfig(
        user_id=True, item_tags=False, embedding_dim=8, level_embedding_dim=4, unknown_rate=0.0,
        unknown_value_rate=0.0,
    ),
    hidden_dims=(16,), dropout=0.0, attention_hidden_dims=(8,), attention_dropout=0.0,
)  # fmt: skip
TRAINING = TrainingConfig(
    seed=1, max_epochs=3, batch_size=128, patience=3, precision="float32", learning_rate=0.003
)
RANDOM_MODEL = dataclasses.replace(
    MODEL,
    features=dataclasses.replace(MODEL.features, unknown_rate=0.1, unknown_value_rate=0.05),
    dropout=0.2,
)
RANDOM_TRAINING = dataclasses.replace(
    TRAINING,
    max_epochs=4,
    validations_per_epoch=2,
    patience=9,
    in_batch_negatives=0.5,
    pairwise_weight=0.3,
    weight_averaging=2.0,
    final_fit=True,
)
"""Everything random is on, and the training is long enough to kill a rank in the middle."""

NO_GRADIENT = {"tower.0.bias", "tower.1.running_mean"}
"""BatchNorm subtracts this bias again, so only rounding errors train it."""

RUNS: dict[str, tuple[ModelConfig, TrainingConfig, int]] = {
    "plain": (MODEL, TRAINING, 1280),
    "random": (RANDOM_MODEL, RANDOM_TRAINING, 5000),
}


def train(name: str, compute: str, checkpoints: Checkpoints | None = None) -> TrainedCtr:
    model, training, n_train = RUNS[name]
    training = dataclasses.replace(training, compute=compute)
    return train_ctr(*small_sample(n_train, 600), model, training, CPU, checkpoints)


def main(name: str, folder: Path) -> None:
    """Train a run on the cluster that the environment names; write its model and its log."""
    logging.basicConfig(level=logging.INFO, filename=folder / "log", format="%(message)s")
    trained = train(name, "ray", Checkpoints(folder / "checkpoints", every_seconds=0))
    with (folder / "trained.pickle").open("wb") as file:
        state = {name: tensor.numpy() for name, tensor in trained.module.state_dict().items()}
        pickle.dump((state, trained.metrics), file)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(n_nodes=2, n_cpus=1) as started:
        yield started


def start(
    cluster: RayCluster, name: str, folder: Path, **variables: str
) -> "subprocess.Popen[bytes]":
    """Start `main` in a process of its own, as Ray reads a token only once per process."""
    folder.mkdir()
    command = [sys.executable, "-m", __name__, name, str(folder)]
    with (folder / "errors").open("wb") as errors:
        return subprocess.Popen(
            command, env=os.environ | cluster.variables | variables, stderr=errors
        )


def result(process: "subprocess.Popen[bytes]", folder: Path) -> tuple[dict, dict, str]:
    """Return weights, metrics and log of a run that `start` began."""
    assert process.wait(400) == 0, (folder / "errors").read_text()
    weights, metrics = pickle.loads((folder / "trained.pickle").read_bytes())
    return weights, metrics, (folder / "log").read_text()


def test_two_ranks_train_the_weights_of_one_process(cluster: RayCluster, tmp_path: Path) -> None:
    alone = train("plain", "local")
    weights, _, log = result(start(cluster, "plain", tmp_path / "run"), tmp_path / "run")
    assert "Ray: 2 nodes, 2 CPUs" in log
    assert "training on 2 ranks, each with 1 CPU" in log
    assert "all 2 ranks have the same weights" in log
    for name, tensor in alone.module.state_dict().items():
        if name not in NO_GRADIENT:
            trained = torch.from_numpy(weights[name])
            torch.testing.assert_close(trained, tensor, rtol=2e-6, atol=2e-6, msg=name)


def test_a_killed_rank_is_replaced_and_the_result_is_the_same(
    cluster: RayCluster, tmp_path: Path
) -> None:
    undisturbed = result(start(cluster, "random", tmp_path / "whole"), tmp_path / "whole")

    folder = tmp_path / "killed"
    process = start(cluster, "random", folder)
    wait_for(lambda: (folder / "checkpoints" / "checkpoint.pt").exists(), process)
    victims = [pid for node in cluster.nodes for pid in node.pids if is_rank(pid)]
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    killed = result(process, folder)

    assert "resuming from" in killed[2]
    assert "resuming from" not in undisturbed[2]
    for name, array in undisturbed[0].items():
        assert (killed[0][name] == array).all(), name
    del undisturbed[1]["train_rows_per_second"], killed[1]["train_rows_per_second"]
    assert json.dumps(killed[1]) == json.dumps(undisturbed[1])


def test_a_node_that_is_lost_for_good_is_named(cluster: RayCluster, tmp_path: Path) -> None:
    """The last test, as it leaves one node."""
    folder = tmp_path / "run"
    # An attempt to start the ranks takes a second here, not a minute.
    process = start(cluster, "random", folder, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="1")
    wait_for(lambda: (folder / "checkpoints" / "checkpoint.pt").exists(), process)
    cluster.kill(cluster.nodes[1])
    assert process.wait(400) == 1
    assert "Ray: now 1 node, 1 CPU, 0 GPUs; training needs 2 CPUs" in (folder / "log").read_text()
    error = (folder / "errors").read_text()
    assert "RayTrainingError: Ray could not start 2 ranks within 30 minutes. Fix: add" in error


def is_rank(pid: int) -> bool:
    return b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def wait_for(is_there, process: "subprocess.Popen[bytes]") -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 200
    while not is_there():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
