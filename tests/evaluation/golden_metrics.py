"""Metrics that published programs printed for the feature sets of tests/data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.conftest import golden, golden_facts

CASES = ("shifted", "duplicates", "wide", "constdims", "relu", "same", "far", "large")


def golden_values(case: str, name: str = "metrics") -> dict[str, Any]:
    """What they printed for a case."""
    values: dict[str, Any] = golden_facts(name)["cases"][case]
    return values


def golden_sets(case: str) -> tuple[Tensor, Tensor]:
    """Images and real images of a case: float32 [N, D], [M, D]."""
    found = golden("metrics_features")
    return found[f"{case}.gen"], found[f"{case}.real"]
