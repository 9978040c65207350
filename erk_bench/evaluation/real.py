"""What is known of a set of real images, and what makes sense as that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.frechet import FeatureStats

ASYMMETRY = 1e-6  # of a covariance, relative to its largest entry
MAX_DIM = 8192  # of features; the widest published ones have 4096


@dataclass(frozen=True)
class Real:
    """What is known of the real images in one detector's features.

    stats: mean [D] and covariance [D, D], float64, or None. features: float32 [N, D], or None; published
    statistics come without them, and precision, recall and KID need them. device: where distances to them are
    computed; None is the CPU.
    """

    stats: FeatureStats | None
    features: Tensor | None = None
    device: torch.device | None = None

    @property
    def dim(self) -> int:
        """Dimensions of the features."""
        if self.stats is not None:
            return len(self.stats.mean)
        return 0 if self.features is None else self.features.shape[1]


def checked_stats(path: Path, name: str, mean: Any, covariance: Any) -> FeatureStats:
    """Mean [D] and covariance [D, D] as float64, or the one UserError that says what is wrong with them.

    name: of the detector, "" where the file does not tell it.
    """
    where = _where(path, name)
    remedy = "the file is damaged or of another kind: download it again or make it anew"
    values = []
    for title, value in (("mean", mean), ("covariance", covariance)):
        array = value.numpy() if isinstance(value, Tensor) else value
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"{where}: the {title} is {kind}; expected an array of numbers: {remedy}")
        if array.size > MAX_DIM**2:
            raise UserError(
                f"{where}: the {title} has shape {list(array.shape)}; features of at most {MAX_DIM} values "
                f"are read: {remedy}"
            )
        values.append(torch.from_numpy(array.astype(np.float64)))
    m, s = values
    if m.ndim != 1 or not len(m) or s.shape != (len(m), len(m)):
        raise UserError(
            f"{where}: mean and covariance have shapes {list(m.shape)} and {list(s.shape)}; expected [D] and "
            f"[D, D]: {remedy}"
        )
    for title, tensor in (("mean", m), ("covariance", s)):
        if not tensor.isfinite().all():
            number = int((~tensor.isfinite()).sum())
            raise UserError(f"{where}: {number} values of the {title} are not finite; {remedy}")
    gap, largest = float((s - s.T).abs().max()), float(s.abs().max())
    if gap > ASYMMETRY * largest:
        raise UserError(
            f"{where}: the covariance is not symmetric (entries differ by {gap:.3g}, the largest is "
            f"{largest:.3g}; at most {ASYMMETRY:g} of it is rounding); {remedy}"
        )
    return FeatureStats(m, s)


def check_features(path: Path, name: str, features: Tensor, width: int) -> None:
    """Raise UserError for features that are not float32 [N, width] and finite."""
    where = _where(path, name)
    if features.dtype != torch.float32 or features.ndim != 2 or features.shape[1] != width:
        raise UserError(
            f"{where}: the features are {features.dtype} {list(features.shape)}; expected torch.float32 "
            f"[N, {width}], as wide as the mean: make it again with 'erk-bench reference'"
        )
    # aminmax makes no copy, and a NaN anywhere comes through.
    if len(features) and not torch.stack(torch.aminmax(features)).isfinite().all():
        raise UserError(f"{where}: features are not finite; make it again with 'erk-bench reference'")


def _where(path: Path, name: str) -> str:
    return f"reference '{path}', detector '{name}'" if name else f"reference '{path}'"
