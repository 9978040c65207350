"""The 2D "tree" mixture of the autoguidance paper (arXiv 2406.02507), whose denoiser and density are exact.

Points are [N, 2] tensors, float64 unless told otherwise; a noise level is a number, or a tensor [N].
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.base.errors import unknown_name

CLASSES = ("A", "B", "AB")
WEIGHTS = Path(__file__).with_name("tree.safetensors")


class GaussianMixture(NamedTuple):
    """log_weights [K], means [K, 2], and the eigenvalues [K, 2] and eigenvectors [K, 2, 2] of covariances.

    Noise of level sigma adds sigma^2 to every eigenvalue. Everything goes through log-sum-exp: far from all
    components and at small sigma the density itself underflows.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor

    @classmethod
    def of(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """From weights [K] (of any sum), means [K, 2] and covariances [K, 2, 2]."""
        variances, axes = torch.linalg.eigh(covariances)
        return cls((weights / weights.sum()).log(), means, variances.clamp(min=0), axes)

    def log_density(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p(x; sigma) [N]."""
        return torch.logsumexp(self._parts(x, sigma).logs, dim=1)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Gradient of the log density [N, 2]."""
        parts = self._parts(x, sigma)
        return (parts.logs.softmax(dim=1) * parts.pulls).sum(dim=2).T

    def denoised(self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
        """E[data | x] [N, 2], by Tweedie's formula: x + sigma^2 score. labels are not used."""
        return x + _column(sigma, x) ** 2 * self.score(x, sigma)

    def drift(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """dx/dsigma of the probability-flow ODE [N, 2]."""
        return -_column(sigma, x) * self.score(x, sigma)

    def jacobian(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Derivative of the drift by x [N, 2, 2]; symmetric, since the drift is a gradient."""
        parts = self._parts(x, sigma)
        shares = parts.logs.softmax(dim=1)
        apart = parts.pulls - (shares * parts.pulls).sum(dim=2, keepdim=True)
        # The Hessian of a log of a sum: the mean of the parts' Hessians and the spread of their gradients.
        hessian = (shares * (apart[:, None] * apart - parts.precisions)).sum(dim=3)
        return -_column(sigma, x)[:, :, None] * hessian.permute(2, 0, 1)

    def sample(self, count: int, sigma: float, generator: torch.Generator) -> Tensor:
        """Draws [count, 2] with noise of level sigma added."""
        chosen = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        spread = (self.variances[chosen] + sigma**2).sqrt()
        unit = torch.randn(count, 2, dtype=self.means.dtype, generator=generator)
        return self.means[chosen] + torch.einsum("nij,nj->ni", self.axes[chosen], spread * unit)

    def _parts(self, x: Tensor, sigma: float | Tensor) -> _Parts:
        # Coordinate by coordinate, each [N, K] in one piece: torch is slow over an axis of two.
        first, second = (self.variances[:, axis] + _column(sigma, x) ** 2 for axis in (0, 1))
        outers = torch.einsum("kia,kja->aijk", self.axes, self.axes).contiguous()[:, :, :, None]
        precisions = outers[0] / first + outers[1] / second
        across, up = (x[:, axis, None] - self.means[:, axis] for axis in (0, 1))
        pulls = -(precisions[:, 0] * across + precisions[:, 1] * up)
        constants = self.log_weights - (first * second).log() / 2 - math.log(2 * math.pi)
        return _Parts(constants + (pulls[0] * across + pulls[1] * up) / 2, pulls, precisions)


class _Parts(NamedTuple):
    """Of each component: log(weight * density) [N, K], the gradient of its log density [2, N, K], and its
    inverse covariance [2, 2, N or 1, K]."""

    logs: Tensor
    pulls: Tensor
    precisions: Tensor


def _column(sigma: float | Tensor, x: Tensor) -> Tensor:
    """The noise level as [N or 1, 1], in the dtype of the points."""
    return torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)


@functools.cache
def tree(classes: str = "A") -> GaussianMixture:
    """Class A or B of the tree, or both together, in float64. Raises UserError for another name."""
    if classes not in CLASSES:
        raise unknown_name("class of the tree", classes, CLASSES)
    stored = load_file(WEIGHTS)
    parts = [{name: stored[f"{letter}.{name}"].double() for name in ("weights", "means", "covariances")}
             for letter in classes]  # fmt: skip
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return GaussianMixture.of(**joined)
