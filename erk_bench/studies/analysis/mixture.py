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
        return torch.logsumexp(self._log_parts(x, sigma)[0], dim=1)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Gradient of the log density [N, 2]."""
        logs, along, variances = self._log_parts(x, sigma)
        pulls = torch.einsum("kij,nkj->nki", self.axes, -along / variances)
        return torch.einsum("nk,nki->ni", logs.softmax(dim=1), pulls)

    def denoised(self, x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
        """E[data | x] [N, 2], by Tweedie's formula: x + sigma^2 score. labels are not used."""
        return x + _column(sigma, x) ** 2 * self.score(x, sigma)

    def drift(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """dx/dsigma of the probability-flow ODE [N, 2]."""
        return -_column(sigma, x) * self.score(x, sigma)

    def jacobian(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Derivative of the drift by x [N, 2, 2]; symmetric, since the drift is a gradient."""
        levels = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))

        def alone(point: Tensor, level: Tensor) -> Tensor:
            return self.drift(point[None], level[None])[0]

        return torch.func.vmap(torch.func.jacrev(alone))(x, levels)

    def sample(self, count: int, sigma: float, generator: torch.Generator) -> Tensor:
        """Draws [count, 2] with noise of level sigma added."""
        chosen = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        spread = (self.variances[chosen] + sigma**2).sqrt()
        unit = torch.randn(count, 2, dtype=self.means.dtype, generator=generator)
        return self.means[chosen] + torch.einsum("nij,nj->ni", self.axes[chosen], spread * unit)

    def _log_parts(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log(weight * density) of each component [N, K]; offsets along its axes and variances [N, K, 2]."""
        variances = self.variances + _column(sigma, x)[:, :, None] ** 2
        along = torch.einsum("kij,nki->nkj", self.axes, x[:, None] - self.means)
        logs = -0.5 * (along**2 / variances + variances.log()).sum(dim=2) - math.log(2 * math.pi)
        return self.log_weights + logs, along, variances


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
