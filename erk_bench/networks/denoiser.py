"""What every denoiser network is: EDM preconditioning around a raw network."""

from __future__ import annotations

import abc
from typing import Self

import torch
from torch import Tensor, nn


class DenoiserNetwork(nn.Module, abc.ABC):
    """Denoiser D(x; sigma, labels) (EDM preconditioning, arXiv 2206.00364 eq. 7).

    x: NCHW of any float dtype; sigma: a scalar or [B]; labels: one-hot [B, label_dim], or None for
    an all-zero row. Returns float32 NCHW. The raw network runs in `compute_dtype`.
    """

    def __init__(
        self, img_resolution: int, img_channels: int, label_dim: int, use_fp16: bool, sigma_data: float
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.sigma_data = sigma_data
        self.use_fp16 = use_fp16
        self.compute_dtype = torch.float32

    @abc.abstractmethod
    def raw(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Tensor | None) -> Tensor:
        """The network F(x; c_noise, labels) that the preconditioning wraps; c_noise is [B] or [1]."""

    @abc.abstractmethod
    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Turn to inference in `compute_dtype`; in float32 outputs do not change.

        memory_format: of weights that are computed here, so that they need not be copied once more.
        """

    def forward(
        self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None, **options: Tensor | None
    ) -> Tensor:
        x = x.float()
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        if self.label_dim == 0:
            labels = None
        elif labels is None:
            labels = torch.zeros([1, self.label_dim], device=x.device)
        else:
            labels = labels.float().reshape(-1, self.label_dim)
        total = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = sigma * self.sigma_data / total.sqrt()
        c_in = 1 / total.sqrt()
        raw = self.raw((c_in * x).to(self.compute_dtype), self.c_noise(sigma), labels, **options)
        return c_skip * x + c_out * raw.float()

    @staticmethod
    def c_noise(sigma: Tensor) -> Tensor:
        return sigma.flatten().log() / 4
