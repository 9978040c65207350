"""A denoiser compiled once for batches of every size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erk_bench.networks.denoiser import EDMPreconditioned, check_classes
from erk_bench.networks.families import ModelRules
from erk_bench.networks.flow import FlowDenoiser


class CompiledDenoiser:
    """A denoiser whose network is compiled at its first call.

    The batch is marked as changing: a grid's branches come in batches of all sizes, and without the mark each
    size is compiled anew until torch gives up after eight. A batch of one is compiled apart. Raises torch's
    error where the network cannot be compiled whole.
    """

    def __init__(
        self, net: EDMPreconditioned | FlowDenoiser, backend: str | Callable[..., object] = "inductor"
    ) -> None:
        self.img_channels = net.img_channels
        self.img_resolution = net.img_resolution
        self.num_classes = net.num_classes
        self.guided_channels: int | None = getattr(net, "guided_channels", None)
        self._call = torch.compile(net, backend=backend, fullgraph=True)
        self.native_rules: ModelRules | None = getattr(net, "native_rules", None)
        if isinstance(net, FlowDenoiser):
            self._slope = torch.compile(net.native_slope, backend=backend, fullgraph=True)

    def __call__(self, x: Tensor, sigma: Tensor | float, condition: Tensor | None = None) -> Tensor:
        return self._checked(self._call, x, sigma, condition)

    def native_slope(self, x_t: Tensor, share: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """As that of the network."""
        return self._checked(self._slope, x_t, share, condition)

    def _checked(
        self, call: Callable[..., Tensor], x: Tensor, sigma: Tensor | float, condition: Tensor | None
    ) -> Tensor:
        check_classes(condition, self.num_classes)
        for tensor in (x, sigma, condition):
            if isinstance(tensor, Tensor) and tensor.ndim:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return call(x, sigma, condition)
