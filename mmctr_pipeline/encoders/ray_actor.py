"""The actor of a Ray cluster that encodes shards, and how its errors reach the run."""

import dataclasses
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyarrow as pa

from mmctr_pipeline.encoders.store.vector_store import Shard
from mmctr_pipeline.encoders.vector_tables import EncoderInfo
from mmctr_pipeline.plugins import OwnCode, allow_own_code


class RayEncodingError(RuntimeError):
    """Encoding on Ray failed; the message says why."""


class ShardEncoder(Protocol):
    """An encoder as the actors use it."""

    @property
    def info(self) -> EncoderInfo:
        """Identity of the encoder."""

    def encode(self, contents: Any) -> Shard:
        """Return the vectors of the contents of one shard."""


OpenEncoder = Callable[[Mapping[str, Any], str], ShardEncoder]
"""Opens an encoder on an actor, by settings and device. A function of a module, sent by name."""


class OtherEncoderError(RuntimeError):
    """The encoder of a node is not that of the others; the message names the node and both."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error of an actor. It travels as a value, as Ray would wrap it and try again."""

    error: Exception
    traceback: str


class _ActorTraceback(Exception):  # noqa: N818
    """The traceback of an error that an actor raised, as its cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def result(outcome: Any) -> Any:
    """Return what an actor returned, or raise its error."""
    if isinstance(outcome, Failure):
        raise outcome.error from _ActorTraceback(outcome.traceback)
    return outcome


class Actor:
    """Encodes one shard at a time; opens the encoder for the first one."""

    def __init__(
        self,
        open_encoder: OpenEncoder,
        settings: Mapping[str, Any],
        device: str,
        code: OwnCode,
        identity: str | None,
    ) -> None:
        """Keep what opens the encoder.

        Parameters
        ----------
        open_encoder, settings, device
            The function that opens the encoder, and its arguments.
        code
            What the run may import.
        identity
            That of the encoder as it must be; None for any.
        """
        allow_own_code(code)
        self._open, self._identity = lambda: open_encoder(settings, device), identity
        self._encoder: ShardEncoder | None = None

    def info(self) -> bytes:
        """Return what identifies the encoder, or the error of opening it, pickled."""
        return _outcome(lambda: self._opened().info)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the vectors of a shard, or the error, pickled."""
        contents = pickle.loads(batch.column("contents")[0].as_py())
        outcome = _outcome(lambda: self._opened().encode(contents))
        return pa.table({"shard": batch.column("shard"), "outcome": [outcome]})

    def _opened(self) -> ShardEncoder:
        if self._encoder is None:
            encoder = self._open()
            found = encoder.info.identity
            if self._identity not in (None, found):
                raise OtherEncoderError(
                    f"this node has the encoder {found}, but the others have {self._identity}. "
                    "Fix: give all nodes the same model files and versions, and set the precision "
                    "to float32 or bfloat16 if they have different processors"
                )
            self._encoder = encoder
        return self._encoder


def _outcome(work: Callable[[], Any]) -> bytes:
    """Return what `work` returns, or the error that it raises, pickled."""
    try:
        return pickle.dumps(work())
    except Exception as error:
        failure = Failure(_naming_node(error), traceback.format_exc())
    try:
        pickle.loads(content := pickle.dumps(failure))
    except Exception:
        # The class of the error cannot be unpickled, or only here.
        other = RayEncodingError(f"{type(failure.error).__name__}: {failure.error}")
        return pickle.dumps(Failure(other, failure.traceback))
    return content


def _naming_node(error: Exception) -> Exception:
    """Add the address of this node to the message of an error."""
    import ray

    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} (on the Ray node {ray.util.get_node_ip_address()})",)
    return error
