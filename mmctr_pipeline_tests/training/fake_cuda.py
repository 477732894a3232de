"""A CUDA device without hardware: fake tensors of torch have shape, type and device only."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda:0")
_COPIES = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_)


class HostWaitsError(RuntimeError):
    """The host would wait for the device."""


class FakeCuda(FakeTensorMode):
    """A mode in which tensors on `cuda` are fake, while those of the host are real.

    Operations fail if they mix devices or data types in ways that CUDA does not allow, or if the
    host needs values from the device. Within `without_waiting`, copies between host and device
    fail, too, unless they are asynchronous. Copies to the host contain zeros.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.n_waits = 0
        self._may_wait = True

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        self._may_wait = False
        try:
            yield
        finally:
            self._may_wait = True

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        fake = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
        hosted = [leaf for leaf in leaves if type(leaf) in (torch.Tensor, torch.nn.Parameter)]
        targets = {leaf.type for leaf in leaves if isinstance(leaf, torch.device)}
        if not fake and "cuda" not in targets:
            return function(*args, **kwargs)
        if function.overloadpacket in _COPIES:
            is_asynchronous = kwargs.get("non_blocking") or True in args[2:]
            if (hosted or "cpu" in targets) and not is_asynchronous:
                self._wait(function)
            if fake and "cpu" in targets:
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        # Torch would treat a tensor of the host as a constant, and really copy it.
        args, kwargs = tree_map_only(torch.Tensor, self._as_fake, (args, kwargs))
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if fake and any(tensor.ndim for tensor in hosted):
            self._wait(function)  # such as an index on the host, which torch copies by itself
        return result

    def _as_fake(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)

    def _wait(self, function: Any) -> None:
        self.n_waits += 1
        if not self._may_wait:
            raise HostWaitsError(f"{function} copies between host and device")


def pretend_driver(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 1 << 40) -> None:
    """Replace the parts of torch that need a driver.

    These are free memory, pinned memory, autocast's checks of hardware, the kernels of fused Adam,
    and the engine of the backward pass.
    """

    def fused_kernel(*tensor_lists: list[torch.Tensor], lr: torch.Tensor, **settings: Any) -> None:
        assert {tensor.device for tensors in tensor_lists for tensor in tensors} == {lr.device}

    for name in ("_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, name, fused_kernel)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, free_bytes))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "backward", backward)


@torch.no_grad()
def backward(loss: torch.Tensor) -> None:
    """Do what `Tensor.backward` does, by calling the nodes of the graph one by one."""
    grads: dict[Any, list[torch.Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    for node in _from_loss_to_leaves(loss.grad_fn):
        inputs = grads.pop(node, [])
        if all(grad is None for grad in inputs):
            continue
        if hasattr(node, "variable"):
            leaf, grad = node.variable, inputs[0]
            leaf.grad = grad if leaf.grad is None else leaf.grad + grad
            continue
        edges = node.next_functions
        outputs = node.apply(*inputs) if hasattr(node, "apply") else node(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        # The node of a Python function has edges only for inputs that need a gradient.
        if hasattr(node, "needs_input_grad"):
            outputs = [
                output
                for output, is_needed in zip(outputs, node.needs_input_grad, strict=False)
                if is_needed
            ]
            edges = [edge for edge in edges if edge[0] is not None]
        for (target, number), grad in zip(edges, outputs, strict=True):
            if target is not None and grad is not None:
                _add(grads, target, number, grad)


def _add(
    grads: dict[Any, list[torch.Tensor | None]], node: Any, number: int, grad: torch.Tensor
) -> None:
    """Add a gradient to those for `node`, in the shape and type of its `number`-th result."""
    expected = node._input_metadata[number]
    assert grad.device == expected.device, f"{node} takes a gradient on {expected.device}"
    grad = grad.sum_to_size(expected.shape).to(expected.dtype)
    slots = grads.setdefault(node, [None] * len(node._input_metadata))
    before = slots[number]
    slots[number] = grad if before is None else before + grad


def _from_loss_to_leaves(root: Any) -> list[Any]:
    """Return all nodes, each before the nodes that it passes gradients to."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, is_finished = stack.pop()
        if is_finished:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(target, False) for target, _ in node.next_functions if target is not None]
    return order[::-1]
