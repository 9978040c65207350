"""The denoiser around a diffusion transformer: flow matching and noise prediction in our coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.transfers import number_on
from erk_bench.networks.denoiser import check_classes, class_numbers
from erk_bench.networks.diffusers_network import DiffusersNetwork
from erk_bench.networks.families import FAMILIES, FlowFamily, ModelRules
from erk_bench.networks.paths import DiscretePath, LinearPath, Path, ddpm_sigmas
from erk_bench.networks.transformer import DiffusionTransformer

PREDICTIONS = ("velocity", "data")


class FlowModel(nn.Module):
    """A denoiser around a network of flow matching: a `Denoiser`, with its own coordinates too.

    network(x_t, t, classes) gives the velocity dx_t/dt or the data (predicts) of x_t = (1 - u) data + u
    noise_scale * noise: x_t NCHW; t float [B] or [1], its own time, whose value at data is data_time (1 or
    0); classes int64 [B] or [1], of which num_classes is any class, or None where it knows none.
    guided_channels: how many of the first channels are guided; None is all. interval_ends, by_step,
    euler_last: how its program samples (see sampling/native). The result is float64 for float64 x, else
    float32, and so is what is computed around the network. Raises UserError where predicts or data_time is
    another.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        img_channels: int,
        img_resolution: int,
        num_classes: int = 0,
        *,
        predicts: str = "velocity",
        data_time: int = 1,
        noise_scale: float = 1.0,
        guided_channels: int | None = None,
        interval_ends: str = "[]",
        by_step: bool = False,
        euler_last: bool = False,
    ) -> None:
        super().__init__()
        if predicts not in PREDICTIONS:
            raise unknown_name("prediction", predicts, PREDICTIONS)
        if data_time not in (0, 1):
            raise UserError(f"data_time is {data_time!r}; the time of data is 0 or 1")
        self.network = network
        self.img_channels, self.img_resolution, self.num_classes = img_channels, img_resolution, num_classes
        self.guided_channels = guided_channels
        self.native_rules = ModelRules(data_time, noise_scale, False, interval_ends, by_step, euler_last)
        self._path = LinearPath(predicts, data_time, noise_scale)

    @property
    def path(self) -> Path:
        """The way between (x, sigma) and the network's own (x_t, t)."""
        return self._path

    @property
    def label_dim(self) -> int:
        """num_classes, as EDM's programs call it."""
        return self.num_classes

    def forward(self, x: Tensor, sigma: Tensor | float, condition: Tensor | None = None) -> Tensor:
        x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        level = number_on(sigma, torch.float64, x.device).reshape(-1, 1, 1, 1)
        x_t, t = self.path.to_native(x, level)
        return self.path.denoised(x, level, self.native(x_t, t, condition)).to(x.dtype)

    def native_slope(self, x_t: Tensor, share: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """dx_t/du, from data to noise, at a share u of noise in x_t: a number, or one for each sample."""
        level = number_on(share, torch.float64, x_t.device).reshape(-1, 1, 1, 1)
        output = self.native(x_t, self._path.time_of(level), condition)
        return self._path.slope(x_t, level.to(x_t.dtype), output)

    def native(self, x_t: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """The network's output at its own (x_t, t), in the dtype of x_t."""
        time = number_on(t, x_t.dtype, x_t.device).reshape(-1)
        classes = self._classes(condition, x_t) if self.num_classes else None
        return self.network(x_t, time, classes).to(x_t.dtype)

    def _classes(self, condition: Tensor | None, x: Tensor) -> Tensor:
        if condition is None or not self.num_classes:
            return torch.full((1,), self.num_classes, dtype=torch.int64, device=x.device)
        if not isinstance(condition, Tensor):
            raise UserError(
                f"the condition is a {type(condition).__name__}; this network knows class numbers 0 to "
                f"{self.num_classes - 1} and no text: give an int64 tensor [B]"
            )
        if not torch.compiler.is_compiling():
            check_classes(condition, self.num_classes)
        return class_numbers(condition, self.num_classes)


class FlowDenoiser(FlowModel):
    """The denoiser of a network of FAMILIES. network(x_t, t, classes) is as its program calls it."""

    network: DiffusionTransformer | DiffusersNetwork
    levels: Tensor | None

    def __init__(self, network: DiffusionTransformer | DiffusersNetwork) -> None:
        family = network.family if isinstance(network.family, FlowFamily) else FAMILIES[network.family]
        super().__init__(network, network.img_channels, network.img_resolution, network.num_classes)
        self.family: FlowFamily = family
        self.guided_channels = family.guided_channels
        self.native_rules = family.rules(network.noise_scale)
        levels = None
        if family.path is not None:
            self._path = family.path_of(network.noise_scale)
        else:
            own = network.levels if isinstance(network, DiffusersNetwork) else None
            device = next(network.parameters()).device
            levels = (ddpm_sigmas() if own is None else own).to(device, copy=True)
        self._predicts = network.predicts if isinstance(network, DiffusersNetwork) else "noise"
        self.register_buffer("levels", levels, persistent=False)  # so that it moves with the network

    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Fold the network."""
        self.network.fold(compute_dtype, memory_format)
        return self.eval()

    @property
    def path(self) -> Path:
        """The way between (x, sigma) and the network's own (x_t, t)."""
        return self._path if self.levels is None else DiscretePath(self.levels, self._predicts)

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
        if condition is None and self.num_classes and not self.network.null_class:
            raise UserError(
                f"this network knows {self.num_classes} classes and none for 'any'; give class numbers"
            )
        network = self.network
        dtype = network.offset.dtype if isinstance(network, DiffusionTransformer) else network.compute_dtype
        output = network(x_t.to(dtype), time, self._classes(condition, x_t))
        return output[:, : self.img_channels].to(x_t.dtype)
