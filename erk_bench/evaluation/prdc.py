"""Precision, recall, density and coverage by nearest neighbours, as prdc, dgm-eval and ADM have them."""

from __future__ import annotations

from torch import Tensor

from erk_bench.evaluation.distances import ADM, PRDC
from erk_bench.evaluation.measured import Extracted, Measured, features_of
from erk_bench.evaluation.needs import (
    NEIGHBORHOOD,
    PRDC_NEIGHBORHOOD,
    dgm_prdc_lack,
    dgm_subsets_of,
    neighbours_lack,
    prdc_lack,
    refuse_lack,
)
from erk_bench.evaluation.neighbours import Neighbourhoods, precision_recall_without_groups
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec

PRDC_BLOCK = 5_000  # a block of float64 is 200 MB


def prdc(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """Those of the package prdc (arXiv 2002.09797), k = 5, of all images."""
    real_features = features_of(real)
    refuse_lack(spec, prdc_lack, len(groups), len(real_features))
    return measured_neighbours(
        precision_recall_without_groups(
            images.features, real_features, groups, spec.num_groups, PRDC_NEIGHBORHOOD, PRDC_BLOCK, PRDC
        )
    )


def dgm_prdc(images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec) -> dict[str, Measured]:
    """Those of dgm-eval: of as many images of both sets, drawn at random, 10,000 at most.

    The program never seeds its draw; here NumPy's generator has its default seed, 13579.
    """
    real_features = features_of(real)
    refuse_lack(spec, dgm_prdc_lack, len(groups), len(real_features))
    kept_real, kept = dgm_subsets_of(len(real_features), len(groups))
    return measured_neighbours(
        precision_recall_without_groups(
            images.features[kept],
            real_features[kept_real],
            groups[kept],
            spec.num_groups,
            PRDC_NEIGHBORHOOD,
            PRDC_BLOCK,
            PRDC,
        )
    )


def adm_precision_recall(
    images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
) -> dict[str, Measured]:
    """Improved precision and recall of ADM's evaluator: k = 3, squared distances in float16."""
    real_features = features_of(real)
    refuse_lack(spec, neighbours_lack, len(groups), len(real_features))
    return measured_neighbours(
        precision_recall_without_groups(
            images.features, real_features, groups, spec.num_groups, NEIGHBORHOOD, rule=ADM
        )
    )


def measured_neighbours(found: Neighbourhoods) -> dict[str, Measured]:
    """By their names. Recall and coverage have halves too: groups overstate their errors."""
    return {
        "precision": Measured(found.precision, tuple(found.precisions)),
        "recall": Measured(found.recall, tuple(found.recalls), found.recalls_of_halves),
        "density": Measured(found.density, tuple(found.densities)),
        "coverage": Measured(found.coverage, tuple(found.coverages), found.coverages_of_halves),
    }
