"""Encode on a Ray cluster: Ray Data runs a pool of actors, and each opens the encoder once.

The process that asks for the vectors plans the shards and stores their vectors; the actors only
encode. The shards of a lost actor or node are encoded again by others.
"""

import contextlib
import logging
import os
import pickle
import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmctr_pipeline.cluster.ray_session import describe_cluster, n_gpus, ray_session
from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.encoders.ray_actor import Actor, OpenEncoder, RayEncodingError, result
from mmctr_pipeline.encoders.store.vector_store import EncodeTogether, Shard
from mmctr_pipeline.encoders.vector_tables import EncoderInfo
from mmctr_pipeline.plugins import own_code

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# One shard is encoded by an actor while the next one travels to it.
_SHARDS_PER_ACTOR = 2

# First words of the names of Ray Data's threads that call Ray, and how long to wait for their end.
_RAY_THREADS = ("StreamingExecutor", "iter_threaded")
_END_SECONDS = 60.0


@contextlib.contextmanager
def ray_encoders(
    open_encoder: OpenEncoder,
    config: TextEncoderConfig | ImageEncoderConfig,
    device: "torch.device | str",
) -> Iterator["RayEncoders | None"]:
    """Yield the encoders of the cluster that `RAY_ADDRESS` names, by default of this machine.

    Yields None if the encoder is to run in this process (`compute: local`). Raises
    `DeploymentError` if Ray is not installed or cannot connect.

    Parameters
    ----------
    open_encoder
        Opens the encoder on an actor.
    config
        Settings of the encoder.
    device
        Device of this process. Without `RAY_ADDRESS`, the actors use GPUs only if it is one.
    """
    if config.compute == "local":
        yield None
        return
    with ray_session(), contextlib.ExitStack() as executions:
        use_gpus = n_gpus() > 0
        if not os.environ.get("RAY_ADDRESS"):
            use_gpus &= str(device).startswith("cuda")
        yield RayEncoders(open_encoder, config.to_mapping(), use_gpus, executions)


class RayEncoders:
    """Encoders on the actors of a cluster: one for each GPU, or for each CPU if there is no GPU.

    What they execute is ended with `executions`.
    """

    def __init__(
        self,
        open_encoder: OpenEncoder,
        settings: Mapping[str, Any],
        use_gpus: bool,
        executions: contextlib.ExitStack,
    ) -> None:
        self._open, self._settings, self._use_gpus = open_encoder, settings, use_gpus
        self._executions = executions

    def info(self, here: EncoderInfo) -> EncoderInfo:
        """Return what identifies the encoder on the actors; raises the errors of opening it.

        This is `here`, that of the same encoder on the CPU of this process, unless the actors use
        GPUs: then one of them opens it, since the number format may depend on the GPU.
        """
        if not self._use_gpus:
            return here
        import ray

        with _naming_failures():
            actor: Any = ray.remote(num_cpus=1, num_gpus=1)(Actor).remote(*self._arguments(None))
            found = pickle.loads(ray.get(actor.info.remote()))
            ray.kill(actor)
        return result(found)

    def together(self, info: EncoderInfo, contents: Sequence[Any]) -> EncodeTogether:
        """Return the function that encodes shards of `contents` on the actors.

        It raises the errors of the encoder, `OtherEncoderError` if an actor does not open the
        encoder that `info` identifies, and `RayEncodingError`.
        """
        return lambda shards: self._encode(
            info, [pickle.dumps([contents[row] for row in positions]) for positions in shards]
        )

    def _encode(self, info: EncoderInfo, shards: list[bytes]) -> Iterator[tuple[int, Shard]]:
        """Yield number and vectors of each shard, given by its pickled contents, when ready."""
        import ray.data

        # Its messages are about its own scheduling.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        n_actors = min(len(shards), self._n_actors())
        kind = "GPU" if self._use_gpus else "CPU"
        logger.info(
            f"encoding {_count(len(shards), 'shard')} on {_count(n_actors, 'actor')}, "
            f"with one {kind} each"
        )
        rows = [{"shard": number, "contents": shard} for number, shard in enumerate(shards)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Actor,
            fn_constructor_args=self._arguments(info.identity),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=n_actors, max_tasks_in_flight_per_actor=_SHARDS_PER_ACTOR
            ),
            num_cpus=1,
            num_gpus=int(self._use_gpus),
        )
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        cluster = describe_cluster()
        with _naming_failures():
            batches: Any = iter(
                dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
            )
            self._executions.callback(_end_execution, batches)
            for batch in batches:
                if cluster != (cluster := describe_cluster()):
                    logger.warning(f"Ray: now {cluster}; lost shards are encoded again")
                for row in batch.to_pylist():
                    yield row["shard"], result(pickle.loads(row["outcome"]))

    def _n_actors(self) -> int:
        import ray

        # A cluster that grows on demand may have no worker yet.
        return n_gpus() if self._use_gpus else max(1, int(ray.cluster_resources().get("CPU", 0)))

    def _arguments(self, identity: str | None) -> tuple[Any, ...]:
        device = "cuda" if self._use_gpus else "cpu"
        return self._open, dict(self._settings), device, own_code(), identity


def _end_execution(batches: Generator[Any, None, None]) -> None:
    """End the execution behind an iterator, and wait until its threads have ended.

    If one of them called Ray after Ray was shut down, as may happen after an error, Ray would end
    the whole process at once, without a message.
    """
    batches.close()
    for thread in threading.enumerate():
        if thread.name.startswith(_RAY_THREADS):
            thread.join(_END_SECONDS)


@contextlib.contextmanager
def _naming_failures() -> Iterator[None]:
    """Turn the errors of Ray into a `RayEncodingError`."""
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        # Without colours, and of a traceback only its first and last lines.
        first, *rest = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or ["?"]
        reason = f"{first} ... {rest[-1]}" if rest else first
        raise RayEncodingError(
            f"encoding on Ray failed: {reason}. Fix: give all nodes the same packages, see the "
            "logs of the cluster, and start the run again; it encodes only what is missing"
        ) from error


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
