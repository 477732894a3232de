"""Train one model on several processes of a Ray cluster, by Ray Train.

Every process (rank) holds the dataset, all weights and all states of the optimiser, and trains on
its share of each batch. A rank that dies ends the others; Ray starts all of them again, and they
resume from the last checkpoint.
"""

import contextlib
import dataclasses
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmctr_pipeline.cluster.log_relay import relayed_logs, sending_logs
from mmctr_pipeline.cluster.ray_session import n_gpus, ray_session, warnings_of_changes
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.plugins import allow_own_code, own_code
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.batch_source import TrainingDataError
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.device import seeded
from mmctr_pipeline.training.ranks import Ranks
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.step import TrainingDivergedError
from mmctr_pipeline.training.trainer import CtrTrainer

logger = logging.getLogger(__name__)

MAX_RESTARTS = 5
"""Maximum number of restarts after lost ranks; then the run fails."""

MAX_MINUTES_WAITING = 30
"""Attempts, of a minute each, to start all ranks while CPUs or GPUs are missing."""

_AGREED_ERRORS = (TrainingDivergedError, TrainingDataError, SettingsError)
"""Errors that all ranks raise at the same point, so that trying again cannot help."""


class RayTrainingError(RuntimeError):
    """Training on Ray failed, or the cluster is too small for it; the message says why."""


@dataclasses.dataclass(frozen=True)
class _Job:
    """Inputs of all ranks; Ray keeps one copy on each node."""

    trainer: CtrTrainer
    rows: Split
    checkpoints: Checkpoints | None
    selection: TrainingHistory | None


def fit_on_ray(
    trainer: CtrTrainer,
    rows: Split,
    checkpoints: Checkpoints | None,
    selection: TrainingHistory | None,
) -> tuple[CtrModel, TrainingHistory]:
    """Do the work of `CtrTrainer.fit` on `training.workers` ranks; the model is on this device.

    Random draws within a batch (dropout, in-batch negatives, pairs) are made on each rank's share,
    so their results depend on the number of ranks. Everything else equals training in one process,
    up to rounding.

    Raises `RayTrainingError`, `DeploymentError` if there is no Ray, and the errors of
    `training.loop.fit`.

    Parameters
    ----------
    trainer
        Dataset, settings and spec of the model.
    rows
        Labelled rows to train on.
    checkpoints
        Where the first rank saves progress, and where all resume from: on several nodes, a folder
        that all of them share.
    selection
        As for `CtrTrainer.fit`.
    """
    with ray_session(), relayed_logs() as relay, _results_folder(checkpoints) as folder:
        import ray

        on_cpu = dataclasses.replace(trainer, items=trainer.items.to(torch.device("cpu")))
        job = ray.put(_Job(on_cpu, rows, checkpoints, selection))
        config = {"job": job, "relay": relay, "code": own_code()}
        # On a cluster, its GPUs count and not those of this machine.
        use_gpus = bool(os.environ.get("RAY_ADDRESS")) or trainer.device.type == "cuda"
        result = _run_ranks(config, trainer.training_config.workers, folder, use_gpus)
    if isinstance(error := result.get("error"), Exception):
        raise error
    with seeded(trainer.training_config.seed, trainer.device):
        module = trainer.new_model(rows)
    weights = {name: torch.tensor(array) for name, array in result["weights"].items()}
    module.load_state_dict(weights)
    module.eval()
    return module, result["history"]


@contextlib.contextmanager
def _results_folder(checkpoints: Checkpoints | None) -> Iterator[Path]:
    """Yield a folder for Ray Train's own records, which are small and not kept."""
    if checkpoints is not None:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=checkpoints.folder if checkpoints else None, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _run_ranks(
    config: dict[str, Any], n_ranks: int, folder: Path, use_gpus: bool
) -> dict[str, Any]:
    """Run `_train_rank` on each rank, and return what the first one returns."""
    import ray
    from ray.train import (
        ControllerError,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchTrainer

    use_gpu = use_gpus and n_gpus() >= n_ranks
    n_cpus = 1 if use_gpu else _cpus_per_rank(n_ranks)
    logger.info(
        f"training on {n_ranks} ranks, each with "
        + ("a GPU" if use_gpu else f"{n_cpus} CPU{'s' * (n_cpus > 1)}")
    )
    train_rank: Any = _train_rank  # Ray's type hints do not allow a result,
    failures: Any = FailureConfig  # and are those of an older interface here.
    training = TorchTrainer(
        train_rank,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=n_ranks, use_gpu=use_gpu, resources_per_worker=_resources(use_gpu, n_cpus)
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(folder.resolve()),
            failure_config=failures(
                max_failures=MAX_RESTARTS, controller_failure_limit=MAX_MINUTES_WAITING
            ),
        ),
    )
    try:
        # Ray's type hints name the result of an older interface, which lacks this attribute.
        needed = f"{n_ranks} GPUs" if use_gpu else f"{n_ranks * n_cpus} CPUs"
        with warnings_of_changes(f"training needs {needed}"):
            result: Any = training.fit()
    except ControllerError as error:
        raise RayTrainingError(
            f"Ray could not start {n_ranks} ranks within {MAX_MINUTES_WAITING} minutes. Fix: add "
            "the nodes that are missing, and start the run again; it resumes from its last "
            f"checkpoint\n{error}"
        ) from error
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise RayTrainingError(
            f"training on Ray failed {MAX_RESTARTS + 1} times, or the cluster is gone. Fix: "
            "correct the cause below, and start the run again; it resumes from its last checkpoint"
            f"\n{error}"
        ) from error
    returned: dict[str, Any] = result.return_value
    return returned


def _resources(use_gpu: bool, n_cpus: int) -> dict[str, float]:
    return {"CPU": n_cpus, "GPU": 1} if use_gpu else {"CPU": n_cpus}


def _cpus_per_rank(n_ranks: int) -> int:
    """Return the most CPUs that each of `n_ranks` ranks can have on the nodes of the cluster."""
    import ray

    per_node = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for n_cpus in range(max(per_node, default=0), 0, -1):
        if sum(cpus // n_cpus for cpus in per_node) >= n_ranks:
            return n_cpus
    raise RayTrainingError(
        f"training.workers is {n_ranks}, but the cluster's number of CPUs is {sum(per_node)}. Fix: "
        "lower training.workers, or add nodes"
    )


def _train_rank(config: dict[str, Any]) -> dict[str, Any] | None:
    """Train as one rank; the first rank returns weights and history, or an agreed error."""
    import ray
    from ray.train.torch import get_device

    allow_own_code(config["code"])  # the job may hold settings of a model of the user's own
    ranks, job = Ranks.of_process_group(), ray.get(config["job"])
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    items = job.trainer.items.to(device)
    trainer = dataclasses.replace(job.trainer, items=items, device=device, ranks=ranks)
    first = ranks.is_first
    try:
        with sending_logs(config["relay"]) if first else contextlib.nullcontext():
            module, history = trainer.fit_here(job.rows, job.checkpoints, job.selection)
            _log_result(module, ranks)
    except _AGREED_ERRORS as error:
        return {"error": error} if first else None
    return {"weights": _arrays(module), "history": history} if first else None


def _log_result(module: nn.Module, ranks: Ranks) -> None:
    """Log the digest of the weights and the bytes of a step; raises if ranks have other weights."""
    logger.info(f"all {ranks.count} ranks have the same weights, SHA-256 {ranks.digest(module)}")
    logger.info(f"a rank's gradients of one step: {ranks.traffic}")


def _arrays(module: nn.Module) -> dict[str, Any]:
    # Ray Train refuses to return tensors.
    return {name: tensor.cpu().numpy() for name, tensor in module.state_dict().items()}
