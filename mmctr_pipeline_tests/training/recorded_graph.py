"""A stand-in for CUDA graphs that runs on the CPU: it records operations and repeats them."""

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class RecordedGraph:
    """Repeats recorded operations on the same memory, as `torch.cuda.CUDAGraph` does.

    Tensors are read and written at the addresses that they had during the capture. Host numbers
    keep the values that they had then. Random numbers are drawn again.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, recorded in self.calls:
            result = function(*args, **kwargs)
            for old, new in zip(_tensors(recorded), _tensors(result), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    """Records every operation, and refuses those for which the host would wait."""

    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Indexing makes the host wait only if an index is a boolean mask.
        masks = [tensor for tensor in _tensors(args[1:]) if tensor.dtype == torch.bool]
        is_index = function is torch.ops.aten.index.Tensor and not masks
        if _WAITS.intersection(function.tags) and not is_index:
            raise RuntimeError(f"{function} is not permitted when the stream is capturing")
        for tensor in _tensors((args, kwargs)):
            base = tensor if tensor._base is None else tensor._base
            if base.data_ptr() not in self.before:
                self.before[base.data_ptr()] = (base, base.clone())
        result = function(*args, **kwargs)
        self.graph.calls.append((function, args, kwargs, result))
        return result


@contextlib.contextmanager
def capture(graph: RecordedGraph) -> Iterator[None]:
    """Record the block in `graph`, and undo its changes to tensors afterwards."""
    random_state, recorder = torch.get_rng_state(), _Recorder(graph)
    try:
        with recorder:
            yield
    finally:
        torch.set_rng_state(random_state)
        with torch.no_grad():
            for tensor, value in recorder.before.values():
                tensor.copy_(value)


class _Generator:
    """The random state of the pretended device, which is that of the CPU."""

    def clone_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def graphsafe_set_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


class _Stream:
    def wait_stream(self, stream: Self) -> None:
        pass


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `torch.cuda` capture and replay on the CPU."""
    stand_ins: dict[str, Any] = {
        "device": lambda device: contextlib.nullcontext(),
        "stream": lambda stream: contextlib.nullcontext(),
        "current_device": lambda: 0,
        "current_stream": _Stream,
        "Stream": _Stream,
        "synchronize": lambda: None,
        "default_generators": (_Generator(),),
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
        "CUDAGraph": RecordedGraph,
        "graph": capture,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
