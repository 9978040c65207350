"""The denoiser around a diffusion transformer: flow matching and noise prediction in our coordinates."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import number_on
from erk_bench.networks.denoiser import check_classes, class_numbers
from erk_bench.networks.diffusers_network import DiffusersNetwork
from erk_bench.networks.families import FAMILIES, FlowFamily, ModelRules
from erk_bench.networks.paths import DiscretePath, LinearPath, ddpm_sigmas
from erk_bench.networks.transformer import DiffusionTransformer


class FlowDenoiser(nn.Module):
    """The denoiser of a network of FAMILIES: a `Denoiser`.

    x: NCHW; the result is float64 for float64 x, else float32, and so is what is computed around the network.
    guided_channels: how many of the first channels are guided, None for all. network(x_t, t, classes) is the
    network as its program calls it; `native` calls it with checked values.
    """

    levels: Tensor | None

    def __init__(self, network: DiffusionTransformer | DiffusersNetwork) -> None:
        super().__init__()
        self.network = network
        family = network.family
        self.family: FlowFamily = family if isinstance(family, FlowFamily) else FAMILIES[family]
        self.img_channels = network.img_channels
        self.img_resolution = network.img_resolution
        self.num_classes = network.num_classes
        self.guided_channels = self.family.guided_channels
        linear = self.family.path is not None
        self._linear = self.family.path_of(network.noise_scale) if linear else None
        device = next(network.parameters()).device
        own = network.levels if isinstance(network, DiffusersNetwork) else None
        levels = None if linear else (ddpm_sigmas() if own is None else own).to(device, copy=True)
        self._predicts = network.predicts if isinstance(network, DiffusersNetwork) else "noise"
        self.register_buffer("levels", levels, persistent=False)  # so that it moves with the network

    @property
    def label_dim(self) -> int:
        """num_classes, as EDM's programs call it."""
        return self.num_classes

    @property
    def path(self) -> LinearPath | DiscretePath:
        """The way between (x, sigma) and the network's own (x_t, t)."""
        if self._linear is not None:
            return self._linear
        assert self.levels is not None
        return DiscretePath(self.levels, self._predicts)

    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Fold the network."""
        self.network.fold(compute_dtype, memory_format)
        return self.eval()

    def forward(self, x: Tensor, sigma: Tensor | float, condition: Tensor | None = None) -> Tensor:
        x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        level = number_on(sigma, torch.float64, x.device).reshape(-1, 1, 1, 1)
        x_t, t = self.path.to_native(x, level)
        output = self.native(x_t, t, condition)
        return self.path.denoised(x, level, output).to(x.dtype)

    @property
    def native_rules(self) -> ModelRules:
        """How its program samples."""
        return self.family.rules(self.network.noise_scale)

    def native_slope(self, x_t: Tensor, share: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """dx_t/du, from data to noise, at a share u of noise in x_t: a number, or one for each sample."""
        path = self._linear
        assert path is not None
        level = number_on(share, torch.float64, x_t.device).reshape(-1, 1, 1, 1)
        output = self.native(x_t, path.time_of(level), condition)
        return path.slope(x_t, level.to(x_t.dtype), output)

    def native(self, x_t: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """The network's output for the state's channels at its own (x_t, t), in the dtype of x_t.

        Raises UserError for a state or a condition of another kind than it was trained for.
        """
        wanted = (self.img_channels, self.img_resolution, self.img_resolution)
        if x_t.shape[1:] != wanted:
            raise UserError(
                f"the state has channels, height and width {list(x_t.shape[1:])}; this network of "
                f"{self.family.title} takes {list(wanted)}: give noise of that shape, or another network"
            )
        time = number_on(t, torch.float64, x_t.device).reshape(-1)
        dtype = self.network.compute_dtype
        output = self.network(x_t.to(dtype), time, self._classes(condition, x_t))
        return output[:, : self.img_channels].to(x_t.dtype)

    def _classes(self, condition: Tensor | None, x: Tensor) -> Tensor:
        if not self.num_classes:
            return torch.zeros(1, dtype=torch.int64, device=x.device)
        if condition is None:
            if not self.network.null_class:
                raise UserError(
                    f"this network knows {self.num_classes} classes and none for 'any'; give class numbers"
                )
            return torch.full((1,), self.num_classes, dtype=torch.int64, device=x.device)
        if not isinstance(condition, Tensor):
            raise UserError(
                f"the condition is a {type(condition).__name__}; this network knows class numbers 0 to "
                f"{self.num_classes - 1} and no text: give an int64 tensor [B]"
            )
        if not torch.compiler.is_compiling():
            check_classes(condition, self.num_classes)
        return class_numbers(condition, self.num_classes)
