"""What one call of a network takes: operations and memory, counted on shapes alone.

Tensors of torch's meta device have a shape and no numbers. A network called on them does each operation by
name, and tells how many it needs and how much memory is in use at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Footprint(NamedTuple):
    """flops: a multiply-add is two. weights: bytes of parameters and buffers. activations: bytes of all other
    tensors at the moment when they take most, without the input and without what kernels take for themselves.
    largest_input: bytes of the largest input of a convolution, which kernels may copy into another layout.
    """

    flops: int
    weights: int
    activations: int
    largest_input: int = 0


NOTHING = Footprint(0, 0, 0)


class Sketch(NamedTuple):
    """A network without numbers, on the meta device, and what is called there for a batch."""

    network: nn.Module
    run: Callable[[Tensor], object]


def footprint(sketch: Sketch, example: Tensor) -> Footprint:
    """Count a call of a network. example: on the meta device; for numbers of one image, a batch of one.

    A batch of B takes B times the operations and activations.
    """
    network, run = sketch
    weights = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in [*network.parameters(), *network.buffers()]
    }
    # Not inference mode, in which an operation made of others hides what they allocate.
    with torch.no_grad(), PeakMemory([*weights]) as memory, FlopCounterMode(display=False) as counter:
        run(example)
    return Footprint(int(counter.get_total_flops()), sum(weights.values()), memory.peak, memory.largest_input)


class PeakMemory(TorchDispatchMode):
    """Within, notes the bytes of all tensors made here that are alive at once; their most is `peak`.

    `largest_input` is the bytes of a convolution's largest input.
    known: storages that were there before, which views of them show again.
    """

    def __init__(self, known: Iterable[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch is untyped there
        self._known = set(known)
        self._now = 0
        self.peak = 0
        self.largest_input = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.largest_input = max(self.largest_input, args[0].nbytes)
        inputs = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)
        }
        for tensor in tree_leaves(result):
            if _is_tensor(tensor) and tensor.untyped_storage()._cdata not in inputs:
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._known:
            return
        self._known.add(number)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, number, size)

    def _free(self, number: int, size: int) -> None:
        self._known.discard(number)
        self._now -= size


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
