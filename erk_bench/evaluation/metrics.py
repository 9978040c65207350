"""A metric is a family and a detector: `fd@inception`; the familiar names stand for some of them.

Either may be code of a user's own. A composite is the mean of several metrics. Records keep the leave-one-out
values, so that two runs of the same seeds can be compared as pairs later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import short_name, split_options
from erk_bench.evaluation.composites import COMPOSITES, Composite
from erk_bench.evaluation.detectors import DETECTORS, KEPT, detector_of, is_own, reference_name
from erk_bench.evaluation.families import FAMILIES
from erk_bench.evaluation.measured import Compute, Extracted, Family, Measured, Needs, split_groups
from erk_bench.evaluation.needs import SHUFFLE_SEED, check_sizes
from erk_bench.evaluation.own_family import family_key, own_family
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec


class Alias(NamedTuple):
    """A familiar name of a metric: the one in records, tables and configs, and its title there."""

    of: str
    title: str


ALIASES: dict[str, Alias] = {
    "fd_digits": Alias("fd@digits", "FD-digits"),
    "precision_digits": Alias("precision@digits", "precision"),
    "recall_digits": Alias("recall@digits", "recall"),
    "kid_digits": Alias("kid@digits", "KID-digits"),
    "is_digits": Alias("is@digits", "IS-digits"),
    "fd_infinity_digits": Alias("fd_infinity@digits", "FD∞-digits"),
    "fd_lite0": Alias("fd@lite0", "FD-lite0"),
    "precision_lite0": Alias("precision@lite0", "precision"),
    "recall_lite0": Alias("recall@lite0", "recall"),
    "kid_lite0": Alias("kid@lite0", "KID-lite0"),
    "fd_cifar16": Alias("fd@cifar16", "FD-cifar16"),
    "fd_cifar32": Alias("fd@cifar32", "FD-cifar32"),
    "fid": Alias("fd@inception", "FID"),
    "fid_infinity": Alias("fd_infinity@inception", "FID∞"),
    "fd_dinov2": Alias("fd@dinov2_torch", "FD-DINOv2"),
    "fd_dinov2_infinity": Alias("fd_infinity@dinov2_torch", "FD-DINOv2∞"),
    "fd_dinov2_pil": Alias("fd@dinov2_pil", "FD-DINOv2 (PIL)"),
    "precision": Alias("precision@vgg16", "precision"),
    "recall": Alias("recall@vgg16", "recall"),
    "kid": Alias("kid@inception", "KID"),
    "is": Alias("is@inception", "IS"),
    "cmmd": Alias("cmmd@clip336", "CMMD"),
    "sfid": Alias("fd@inception_spatial", "sFID"),
    "solver_error": Alias("solver_error@state", "solver error"),
    "solver_error_median": Alias("solver_error_median@state", "solver error, median"),
    "solver_error_q90": Alias("solver_error_q90@state", "solver error, 90%"),
}


CONVERGED: Needs = "converged"
SOLVER_ERRORS = [name for name, row in FAMILIES.items() if row.needs == CONVERGED]


@dataclass(frozen=True)
class Metric:
    """A family on a detector (a key of DETECTORS, or an address). name: its key in records."""

    name: str
    title: str
    family: Family
    detector: str

    @property
    def lower(self) -> bool:
        """Whether lower values are better."""
        return self.family.lower


class Metrics(Mapping[str, Metric | Composite]):
    """Every metric by name. Iterating gives the familiar names; any FAMILY@DETECTOR is found as well.

    Raises UserError for a name that is none, for a user's own file that is not there, and for a family that
    needs more than its detector gives. Runs nobody's code.
    """

    def __getitem__(self, name: str) -> Metric | Composite:
        return COMPOSITES[name] if name in COMPOSITES else self.single(name)

    def single(self, name: str) -> Metric:
        """A metric that is no composite."""
        family, detector = split_name(name)
        found, row = own_family(family) if is_own(family) else FAMILIES[family], detector_of(detector)
        if detector in KEPT and found.needs != CONVERGED:
            raise UserError(
                f"metric '{name}' is on what a run keeps of its samples, on which only solver errors are "
                f"measured ({', '.join(f'{key}@{detector}' for key in SOLVER_ERRORS)}); choose a detector: "
                f"{', '.join(DETECTORS)}"
            )
        if found.logits and not row.num_logits:
            with_logits = ", ".join(key for key, other in DETECTORS.items() if other.num_logits)
            raise UserError(
                f"metric '{name}' needs class logits, and detector '{detector}' gives none; choose one of: "
                f"{with_logits}, or tell how many yours has (load.num_logits = 10)"
            )
        alias = next((key for key, each in ALIASES.items() if each.of == f"{family}@{detector}"), None)
        title = f"{found.title}-{row.title}" if alias is None else ALIASES[alias].title
        return Metric(alias or f"{family}@{detector}", title, found, detector)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and bool(self[name])
        except UserError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter([*ALIASES, *COMPOSITES])

    def __len__(self) -> int:
        return len(ALIASES) + len(COMPOSITES)


METRICS = Metrics()


def parts_of(name: str) -> list[Metric]:
    """The metrics that a composite is the mean of; of another name, the metric itself."""
    return [METRICS.single(part) for part in _part_names(name)]


def _part_names(name: str) -> list[str]:
    return [part.metric for part in COMPOSITES[name].parts] if name in COMPOSITES else [name]


def singles(names: Sequence[str]) -> list[Metric]:
    """The metrics to measure for the named ones, those of composites included, each once."""
    return list(dict.fromkeys(metric for name in names for metric in parts_of(name)))


def split_name(name: str) -> tuple[str, str]:
    """Family and detector of a metric's name, from the text alone. Raises UserError for an unknown name."""
    text = ALIASES[name].of if name in ALIASES else name
    detectors = [*DETECTORS, *KEPT]
    places = [index for index, letter in enumerate(text) if letter == "@"]
    for place in places:  # the path of a user's file may have one, too
        family, detector = text[:place], text[place + 1 :]
        if (family in FAMILIES or is_own(family)) and (detector in detectors or is_own(detector)):
            return family, detector
    if not places and is_own(text):
        raise UserError(
            f"metric '{name}' names no detector; write {name}@DETECTOR, for example {name}@digits"
        )
    family, _, detector = text.partition("@")
    near = [
        *METRICS,
        *(f"{key}@{each}" for key in FAMILIES for each in detectors),
        *(f"{key}@{detector}" for key in FAMILIES if is_own(detector)),
        *(f"{family}@{each}" for each in DETECTORS if is_own(family)),
    ]
    told = (
        f"{', '.join(METRICS)}; or FAMILY@DETECTOR, of the families {', '.join(FAMILIES)} and the detectors "
        f"{', '.join(detectors)}, where either may be FILE.py:NAME"
    )
    raise unknown_name("metric", name, near, told)


def check_metric(name: object, where: str) -> None:
    """Refuse what is no metric. where: what names it."""
    try:
        METRICS[str(name)]
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def solver_errors(names: Sequence[str]) -> list[str]:
    """Those of the named metrics that are distances to the converged solution; no file is looked at."""
    parts = (split_name(part) for name in names for part in _part_names(name))
    found = [f"{family}@{detector}" for family, detector in parts if _is_solver_error(family)]
    called = {alias.of: key for key, alias in ALIASES.items()}
    return list(dict.fromkeys(called.get(name, name) for name in found))


def _is_solver_error(family: str) -> bool:
    return family in FAMILIES and FAMILIES[family].needs == CONVERGED


def detectors_of(names: Sequence[str], *, distances: bool = True) -> list[str]:
    """The detectors that the named metrics need, each once. distances: those of solver errors, too."""
    wanted = [metric for metric in singles(names) if distances or metric.family.needs != CONVERGED]
    found = list(dict.fromkeys(metric.detector for metric in wanted))
    called = {reference_name(detector): detector for detector in found}
    for detector in found:
        if called[reference_name(detector)] != detector:
            raise UserError(
                f"the detectors '{detector}' and '{called[reference_name(detector)]}' are both called "
                f"'{reference_name(detector)}'; rename one of the files"
            )
    return found


def code_keys(names: Sequence[str]) -> list[str]:
    """Name and hash of the families of a user's own among the named metrics; they stand in the record."""
    families = [split_name(part)[0] for name in names for part in _part_names(name)]
    return list(dict.fromkeys(family_key(family) for family in families if family not in FAMILIES))


def key_names(names: Sequence[str]) -> set[str]:
    """What the keys of the metrics' detectors and own families begin with; no file is looked at."""
    parts = [split_name(part) for name in names for part in _part_names(name)]
    return {reference_name(detector) for _, detector in parts} | {
        short_name(split_options(family)[0]) for family, _ in parts if family not in FAMILIES
    }


def check_count(spec: MetricsSpec, count: int, more: str = "more seeds, at least {}") -> None:
    """Refuse a number of images that is too small for a metric. more: how to ask for more images."""
    lacks = dict.fromkeys(metric.family.lack for metric in singles(spec.names))
    check_sizes(spec, [(lack, None) for lack in lacks if lack is not None], count, more)


def check_real(spec: MetricsSpec, count: int, real: Mapping[str, Real]) -> None:
    """Refuse sets, of `count` images and of the real ones, that are too small for a metric."""
    lacks = []
    for metric in singles(spec.names):
        found = real.get(metric.detector)
        features = None if found is None else found.features
        if metric.family.lack is not None:
            lacks.append((metric.family.lack, None if features is None else len(features)))
    check_sizes(spec, list(dict.fromkeys(lacks)), count)


def check_real_count(spec: MetricsSpec, count: int, real: int) -> None:
    """Refuse sets of so many images and real ones, both with features, that are too small for a metric."""
    if real < 2:
        raise UserError("the reference has one image, which gives no covariance; give more")
    lacks = dict.fromkeys(metric.family.lack for metric in singles(spec.names))
    check_sizes(spec, [(lack, real) for lack in lacks if lack is not None], count, "more images, at least {}")


def check_dimensions(detector: str, images: Extracted, real: Real) -> None:
    """Refuse real images of another number of feature dimensions."""
    found = images.features.shape[1]
    for value in (real.features, None if real.stats is None else real.stats.mean):
        if value is not None and value.shape[-1] != found:
            raise UserError(
                f"features by detector '{detector}' have {found} dimensions, those of the reference "
                f"{value.shape[-1]}; use a reference made with '{detector}'"
            )


def measure(
    spec: MetricsSpec,
    images: Mapping[str, Extracted],
    real: Mapping[str, Real],
    *,
    distances: Mapping[str, Tensor] | None = None,
    shuffled: bool = False,
) -> dict[str, Measured]:
    """All metrics of `spec`, from what each detector gave for the images and for the real ones.

    distances: [N], by detector, of each image to its converged solution, where solver errors are asked.
    shuffled: images are in jackknife groups by chance (the same for sets of equal size), not with those
    beside them. Images that are sorted, by class for example, need that: their neighbours are alike.
    `real` may lack detectors of whose metrics none needs real images. Raises UserError where a metric needs
    more of the real images than there is, or their dimensions differ.
    """
    far = {name: Extracted(values[:, None]) for name, values in (distances or {}).items()}
    families: dict[tuple[Compute, str], dict[str, Measured]] = {}
    measured: dict[str, Measured] = {}
    for metric in singles(spec.names):
        key = (metric.family.compute, metric.detector)
        if key not in families:
            needs = metric.family.needs
            extracted = (far if needs == CONVERGED else images)[metric.detector]
            target = None if needs in ("nothing", CONVERGED) else real.get(metric.detector)
            if target is not None:
                check_dimensions(metric.detector, extracted, target)
            groups = split_groups(len(extracted.features), spec.num_groups)
            if shuffled:
                order = np.random.RandomState(SHUFFLE_SEED).permutation(len(groups))
                groups = groups[torch.from_numpy(order)]
            families[key] = metric.family.compute(extracted, target, groups, spec)
        measured[metric.name] = families[key][metric.family.part]
    return {name: _of(METRICS[name], measured) for name in spec.names}


def _of(metric: Metric | Composite, measured: Mapping[str, Measured]) -> Measured:
    if isinstance(metric, Metric):
        return measured[metric.name]
    return metric.mean([measured[METRICS.single(part.metric).name] for part in metric.parts])
