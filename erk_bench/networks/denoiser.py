"""What every denoiser is, and the EDM preconditioning that makes one of a raw network."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import number_on


class Denoiser(Protocol):
    """denoiser(x, sigma, condition) -> denoised: the estimate of the data in x = data + sigma * noise.

    x, denoised: NCHW float32. sigma: a number, or a tensor of one or of B noise levels. condition: class
    numbers int64 [B], of which num_classes itself is the null class ("any"), or one-hot rows
    [B, num_classes], all zero for the null class; None is no condition. num_classes is 0 where the network
    knows no classes.
    """

    @property
    def img_channels(self) -> int: ...

    @property
    def img_resolution(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    def __call__(self, x: Tensor, sigma: Tensor | float, condition: Tensor | None = None) -> Tensor: ...


def check_classes(condition: Tensor | None, num_classes: int) -> None:
    """Refuse class numbers [B] that there are not, where looking does not wait for a GPU. Raises UserError.

    Another condition passes. A compiled network cannot look; who calls it does.
    """
    if condition is None or condition.is_floating_point() or condition.ndim > 1 or condition.is_cuda:
        return
    if ((condition < 0) | (condition > num_classes)).any():
        raise UserError(
            f"class numbers are {condition.min()} to {condition.max()}; the network has 0 to "
            f"{num_classes - 1}, and {num_classes} for any class"
        )


def one_hot_rows(condition: Tensor, num_classes: int) -> Tensor:
    """A condition as float32 rows [B, num_classes]; the null class is an all-zero row.

    Raises UserError for class numbers that there are not (see check_classes).
    """
    if condition.is_floating_point():
        return condition.float().reshape(-1, num_classes)
    if condition.ndim > 1:  # rows of whole numbers
        return condition.reshape(-1, num_classes).float()
    if not torch.compiler.is_compiling():
        check_classes(condition, num_classes)
    known = torch.arange(num_classes, device=condition.device)
    return (condition[:, None] == known).float()


def class_numbers(condition: Tensor, num_classes: int) -> Tensor:
    """A condition as class numbers int64 [B]; the null class is num_classes."""
    if condition.ndim == 1 and not condition.is_floating_point():
        return condition.long()
    rows = condition.reshape(-1, num_classes)
    return torch.where(rows.any(dim=1), rows.argmax(dim=1), num_classes)


def c_noise(sigma: Tensor) -> Tensor:
    """How EDM networks are told the noise level."""
    return sigma.flatten().log() / 4


class RawNetwork(nn.Module, abc.ABC):
    """A network F(x; c_noise, labels) that EDM preconditioning wraps; its state dict is that of checkpoints.

    c_noise is [B] or [1]; labels: one-hot [B, num_classes] or [1, num_classes], None without classes. It runs
    in `compute_dtype`. sigma_data: the standard deviation of the data that it was trained with.
    """

    def __init__(
        self, img_resolution: int, img_channels: int, num_classes: int, use_fp16: bool, sigma_data: float
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.num_classes = num_classes
        self.sigma_data = sigma_data
        self.use_fp16 = use_fp16
        self.compute_dtype = torch.float32

    @classmethod
    def argument_names(cls, init: Mapping[str, Any]) -> list[str]:
        """The constructor arguments that there are beside these."""
        return list(inspect.signature(cls).parameters)

    @abc.abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Tensor | None) -> Tensor:
        """F: x and the result are NCHW of compute_dtype."""

    @abc.abstractmethod
    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Turn to inference in `compute_dtype`; in float32 outputs do not change.

        memory_format: of weights that are computed here, so that they need not be copied once more.
        """

    @abc.abstractmethod
    def use_published_attention(self) -> None:
        """Compute attention by the products of the published program, not by fused kernels."""


class EDMPreconditioned(nn.Module):
    """The denoiser D(x; sigma, condition) around a raw network (arXiv 2206.00364, eq. 7): a `Denoiser`.

    x may be of any float dtype; the result is float32 NCHW. options go to the raw network by name.
    """

    def __init__(self, network: RawNetwork) -> None:
        super().__init__()
        self.network = network
        self.img_resolution = network.img_resolution
        self.img_channels = network.img_channels
        self.num_classes = network.num_classes
        self.sigma_data = network.sigma_data

    @property
    def label_dim(self) -> int:
        """num_classes, as EDM's programs call it."""
        return self.num_classes

    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Fold the raw network."""
        self.network.fold(compute_dtype, memory_format)
        return self.eval()

    def forward(
        self, x: Tensor, sigma: Tensor | float, condition: Tensor | None = None, **options: Tensor | None
    ) -> Tensor:
        x = x.float()
        sigma = number_on(sigma, torch.float32, x.device).reshape(-1, 1, 1, 1)
        labels: Tensor | None
        if self.num_classes == 0:
            labels = None
        elif condition is None:
            labels = torch.zeros([1, self.num_classes], device=x.device)
        else:
            labels = one_hot_rows(condition, self.num_classes)
        total = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = sigma * self.sigma_data / total.sqrt()
        c_in = 1 / total.sqrt()
        raw = self.network((c_in * x).to(self.network.compute_dtype), c_noise(sigma), labels, **options)
        return c_skip * x + c_out * raw.float()
