"""Families of metrics: what is computed from features, whichever detector gave them.

The values are torch-fidelity's (but for the Frechet distances, which are ours), each with a block-jackknife
standard error; the jackknife leaves out one of `num_groups` contiguous groups of seeds at a time.
"""

from __future__ import annotations

from torch import Tensor

from erk_bench.evaluation.class_scores import adm_inception_score, inception_score
from erk_bench.evaluation.frechet import distances_without_groups, infinity_without_groups
from erk_bench.evaluation.measured import Extracted, Family, Measured, features_of, target_of
from erk_bench.evaluation.needs import (
    NEIGHBORHOOD,
    SHUFFLE_SEED,
    adm_splits_lack,
    dgm_prdc_lack,
    kernel_lack,
    mind_lack,
    neighbours_lack,
    prdc_lack,
    refuse_lack,
    splits_lack,
    subsets_lack,
)
from erk_bench.evaluation.neighbours import precision_recall_without_groups, unbiased_kernel_distances
from erk_bench.evaluation.prdc import adm_precision_recall, dgm_prdc, prdc
from erk_bench.evaluation.reference_files import Real
from erk_bench.evaluation.sliced import mind
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


def precision_recall(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Improved precision and recall (arXiv 1904.06991), k = 3."""
    real_features = features_of(real)
    refuse_lack(spec, neighbours_lack, len(groups), len(real_features))
    found = precision_recall_without_groups(
        images.features, real_features, groups, spec.num_groups, NEIGHBORHOOD
    )
    return {
        "precision": Measured(found.precision, tuple(found.precisions)),
        "recall": Measured(found.recall, tuple(found.recalls)),
    }


def kernel_distance(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """KID (arXiv 1801.01401): mean of torch-fidelity's random subsets, cubic polynomial kernel.

    The replicates are of the unbiased estimate over all images, of which the subsets' mean is a noisier copy.
    """
    real_features = features_of(real)
    refuse_lack(spec, kernel_lack, len(images.features), len(real_features))
    from torch_fidelity.metric_kid import kid_features_to_metric  # here: it takes seconds to import

    value = kid_features_to_metric(
        images.features,
        real_features,
        kid_subsets=spec.kid_subsets,
        kid_subset_size=spec.kid_subset_size,
        rng_seed=SHUFFLE_SEED,
        verbose=False,
    )["kernel_inception_distance_mean"]
    distances = unbiased_kernel_distances(images.features, real_features, groups, spec.num_groups)
    return {"kid": Measured(float(value), tuple(distances))}


FAMILIES: dict[str, Family] = {
    "fd": Family("FD", frechet, "frechet", "statistics", lower=True),
    "fd_infinity": Family("FD∞", frechet_infinity, "infinity", "statistics", lower=True, lack=subsets_lack),
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
}
