"""Families of metrics: what is computed from features, whichever detector gave them.

A family whose name ends in a program's has that program's values; the others have torch-fidelity's, but for
the Frechet distances, which are ours. Each value has a jackknife standard error, which leaves out one of
`num_groups` groups of images at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from erk_bench.evaluation.class_scores import adm_inception_score, inception_score
from erk_bench.evaluation.frechet import distances_without_groups, infinity_without_groups
from erk_bench.evaluation.infinity import chong_forsyth_subsets, dgm_infinity_subsets
from erk_bench.evaluation.kernels import cmmd, dgm_kernel_distance, kernel_distance
from erk_bench.evaluation.measured import Extracted, Family, Measured, features_of, target_of
from erk_bench.evaluation.needs import (
    NEIGHBORHOOD,
    adm_splits_lack,
    chong_forsyth_lack,
    dgm_infinity_lack,
    dgm_prdc_lack,
    kernel_lack,
    mind_lack,
    neighbours_lack,
    one_real_lack,
    prdc_lack,
    refuse_lack,
    splits_lack,
    subsets_lack,
)
from erk_bench.evaluation.neighbours import precision_recall_without_groups
from erk_bench.evaluation.prdc import adm_precision_recall, dgm_prdc, measured_neighbours, prdc
from erk_bench.evaluation.reference_files import Real
from erk_bench.evaluation.sliced import mind
from erk_bench.evaluation.solver_error import solver_error
from erk_bench.spec import MetricsSpec


def frechet(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """Frechet distance of the features' Gaussians."""
    value, replicates = distances_without_groups(images.features, groups, spec.num_groups, target_of(real))
    return {"frechet": Measured(value, tuple(replicates))}


def frechet_infinity(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Frechet distance extrapolated to infinitely many images (arXiv 1911.07023)."""
    value, replicates = infinity_without_groups(images.features, groups, spec.num_groups, target_of(real))
    return {"infinity": Measured(value, tuple(replicates))}


def chong_forsyth_infinity(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """That of Chong and Forsyth's program: 15 sizes from 5,000 images on, each of images shuffled anew.

    The program never seeds its draws; here NumPy's generator has seed 0.
    """
    refuse_lack(spec, chong_forsyth_lack, len(groups))
    return _infinity_of(chong_forsyth_subsets(len(groups)), images, real, groups, spec)


def dgm_infinity(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """That of dgm-eval: 15 sizes from a tenth of the images (5,000 at most) on, each drawn anew.

    The program never seeds its draws; here NumPy's generator has its default seed, 13579.
    """
    refuse_lack(spec, dgm_infinity_lack, len(groups))
    return _infinity_of(dgm_infinity_subsets(len(groups)), images, real, groups, spec)


def _infinity_of(
    subsets: Sequence[Tensor], images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    value, replicates = infinity_without_groups(
        images.features, groups, spec.num_groups, target_of(real), subsets
    )
    return {"infinity": Measured(value, tuple(replicates))}


def precision_recall(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Improved precision and recall (arXiv 1904.06991), k = 3."""
    real_features = features_of(real)
    refuse_lack(spec, neighbours_lack, len(groups), len(real_features))
    found = precision_recall_without_groups(
        images.features, real_features, groups, spec.num_groups, NEIGHBORHOOD
    )
    return measured_neighbours(found)


FAMILIES: dict[str, Family] = {
    "fd": Family("FD", frechet, "frechet", "statistics", lower=True),
    "fd_infinity": Family("FD∞", frechet_infinity, "infinity", "statistics", lower=True, lack=subsets_lack),
    "fd_infinity_cf": Family(
        "FD∞ (Chong-Forsyth)",
        chong_forsyth_infinity,
        "infinity",
        "statistics",
        lower=True,
        lack=chong_forsyth_lack,
    ),
    "fd_infinity_dgm": Family(
        "FD∞ (dgm)", dgm_infinity, "infinity", "statistics", lower=True, lack=dgm_infinity_lack
    ),
    "precision": Family(
        "precision", precision_recall, "precision", "features", lower=False, lack=neighbours_lack
    ),
    "recall": Family("recall", precision_recall, "recall", "features", lower=False, lack=neighbours_lack),
    "precision_adm": Family(
        "precision (ADM)", adm_precision_recall, "precision", "features", lower=False, lack=neighbours_lack
    ),
    "recall_adm": Family(
        "recall (ADM)", adm_precision_recall, "recall", "features", lower=False, lack=neighbours_lack
    ),
    "precision_prdc": Family("precision (prdc)", prdc, "precision", "features", lower=False, lack=prdc_lack),
    "recall_prdc": Family("recall (prdc)", prdc, "recall", "features", lower=False, lack=prdc_lack),
    "density": Family("density", prdc, "density", "features", lower=False, lack=prdc_lack),
    "coverage": Family("coverage", prdc, "coverage", "features", lower=False, lack=prdc_lack),
    "precision_dgm": Family(
        "precision (dgm)", dgm_prdc, "precision", "features", lower=False, lack=dgm_prdc_lack
    ),
    "recall_dgm": Family("recall (dgm)", dgm_prdc, "recall", "features", lower=False, lack=dgm_prdc_lack),
    "density_dgm": Family("density (dgm)", dgm_prdc, "density", "features", lower=False, lack=dgm_prdc_lack),
    "coverage_dgm": Family(
        "coverage (dgm)", dgm_prdc, "coverage", "features", lower=False, lack=dgm_prdc_lack
    ),
    "kid": Family("KID", kernel_distance, "kid", "features", lower=True, lack=kernel_lack),
    "kd": Family("KD", dgm_kernel_distance, "kd", "features", lower=True, lack=one_real_lack),
    "cmmd": Family("CMMD", cmmd, "cmmd", "features", lower=True),
    "mind": Family("MIND", mind, "mind", "features", lower=True, lack=mind_lack),
    "is": Family(
        "IS", inception_score, "inception_score", "nothing", lower=False, lack=splits_lack, logits=True
    ),
    "is_adm": Family(
        "IS (ADM)",
        adm_inception_score,
        "inception_score",
        "nothing",
        lower=False,
        lack=adm_splits_lack,
        logits=True,
    ),
    "solver_error": Family("solver error", solver_error, "mean", "converged", lower=True),
    "solver_error_median": Family("solver error, median", solver_error, "median", "converged", lower=True),
    "solver_error_q90": Family("solver error, 90%", solver_error, "tail", "converged", lower=True),
}
