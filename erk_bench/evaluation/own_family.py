"""A metric of a user's own: `energy(features, real_features, *, options)` gives a number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from erk_bench.base.declared import attributes, declared
from erk_bench.base.errors import UserError
from erk_bench.base.own_code import (
    check_signature,
    checked,
    code_sha256,
    described,
    load,
    place_of,
    short_name,
    split_options,
)
from erk_bench.evaluation.measured import Extracted, Family, Measured, features_of
from erk_bench.evaluation.own_detector import check_options
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec

ARGUMENTS = ("features", "real_features")
SETTING = "the metric"
PART = "value"


def own_family(text: str) -> Family:
    """The row of FILE.py:NAME[:option=value], as far as the text of the file tells. Raises UserError.

    The file may say NAME.title = "..." and NAME.lower = False, where higher values are better. The function
    gets float32 tensors [N, D] and [M, D] on the CPU; it is called once for the value, and once without each
    jackknife group.
    """
    address, options = split_options(text)
    place = place_of(address, SETTING)
    check_options(place, options, declared(place.file, place.name, "metric", ARGUMENTS).options)
    facts = attributes(place.file, place.name)
    title, lower = facts.get("title", short_name(address)), facts.get("lower", True)
    if type(lower) is not bool or type(title) is not str:
        raise UserError(
            f"{place.name} in '{place.file}' has title {title!r} and lower {lower!r}; expected a text, and "
            "True (lower is better) or False"
        )
    sha256 = code_sha256(address, SETTING)

    def compute(
        images: Extracted, real: Real | None, groups: Tensor, spec: MetricsSpec
    ) -> dict[str, Measured]:
        real_features = features_of(real)
        function = load(address, sha256, SETTING)
        if not callable(function):
            raise UserError(
                f"{SETTING} names '{address}', which is {type(function).__name__}; expected a function "
                f"({', '.join(ARGUMENTS)})"
            )
        check_signature("metric", function, place, ARGUMENTS)
        measure = checked(function, place, "a finite number", _problem)

        def value_of(features: Tensor) -> float:
            with torch.inference_mode():
                return float(measure(features, real_features, **options))

        without = (value_of(images.features[groups != group]) for group in range(spec.num_groups))
        return {PART: Measured(value_of(images.features), tuple(without))}

    return Family(title, compute, PART, "features", lower)


def family_key(text: str) -> str:
    """Name and hash of the file of a user's own family."""
    address, _ = split_options(text)
    return f"{short_name(address)}-{code_sha256(address, SETTING)[:8]}"


def _problem(made: Any, _: tuple[Any, ...]) -> str:
    try:
        number = float(made)
    except (TypeError, ValueError, RuntimeError):
        return described(made)
    return "" if math.isfinite(number) else str(number)
