"""What to look at when a set's figure is off: a sample, its most and least typical images, its classes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.files import write_atomic
from erk_bench.base.progress import progress_bar
from erk_bench.evaluation.image_files import visible
from erk_bench.evaluation.metrics import singles
from erk_bench.evaluation.reference import REFERENCES, load_real
from erk_bench.evaluation.reference_files import Real
from erk_bench.evaluation.typical import Typicality, class_distances, typicality
from erk_bench.reporting import set_sheets
from erk_bench.reporting.set_figures import ClassDistance, class_figure
from erk_bench.reporting.set_sheets import Beside
from erk_bench.runs.device import assets_of
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.score import kept_features
from erk_bench.runs.set_block import image_at, labels_of, name_at
from erk_bench.spec import SetSpec

SAMPLE = 96  # images of a sample, spread evenly over the set
EXTREMES = 8  # most and least typical ones

Look = Callable[[int], np.ndarray]


def draw_pictures(spec: SetSpec, real: SetSpec | None, to: Path) -> list[Path]:
    """Write the sheets of a scored set into `to`; returns the files.

    NAME-sample.png: images spread evenly over it. NAME-typical.png: the most and the least typical images by
    the distance of their features to the real ones, with the nearest real images beside them where those are
    at hand. NAME-classes.csv and .png: the Frechet distance of each class, where both sets
    have labels. The features
    are those of the first metric's detector. real: the reference, where it is a set.
    """
    detector = singles(spec.metrics.names)[0].detector
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", spec.name)
    assets = assets_of(spec)
    keys = detector_keys(spec, assets)
    kept = kept_features(spec, {detector: keys[detector]})
    features = kept.extracted[detector].features
    places = [index for index in range(spec.num_images) if index not in set(kept.left_out)]
    written = [_sample(spec, places, to / f"{stem}-sample.png")]
    known = load_real(spec.metrics, assets).get(detector)
    if known is None:
        return written
    with progress_bar(f"typical images of {spec.name}", len(places), len(places), shown=True) as bar:
        found = typicality(features, known, lambda count: bar(count, count))
    written.append(_typical(spec, places, found, _real_images(spec, real), to / f"{stem}-typical.png"))
    classes = _classes(spec, places, features, known, real)
    if classes:
        for form, content in (("csv", _csv(classes).encode()), ("png", class_figure(classes, spec.name))):
            written.append(to / f"{stem}-classes.{form}")
            write_atomic(written[-1], content)
    return written


def _sample(spec: SetSpec, places: Sequence[int], path: Path) -> Path:
    rows = np.linspace(0, len(places) - 1, min(SAMPLE, len(places))).round().astype(int)
    few = [places[row] for row in rows]
    title = f"{visible(spec.name)}: {len(few)} of {len(places)} images"
    write_atomic(path, set_sheets.sample([image_at(spec, index) for index in few], title))
    return path


def _typical(spec: SetSpec, places: Sequence[int], found: Typicality, real: Look | None, path: Path) -> Path:
    order = found.distances.argsort().tolist()
    count = min(EXTREMES, len(order) // 2)

    def row(index: int) -> Beside:
        nearest = [] if real is None or found.neighbours is None else found.neighbours[index].tolist()
        title = f"{visible(name_at(spec, places[index]))}, distance {found.distances[index]:.3g}"
        return Beside(title, image_at(spec, places[index]), [real(each) for each in nearest] if real else [])

    beside = " (beside each the nearest real images)" if real is not None else ""
    groups = [
        (f"{visible(spec.name)}: least typical{beside}", [row(index) for index in order[::-1][:count]]),
        (f"{visible(spec.name)}: most typical", [row(index) for index in order[:count]]),
    ]
    write_atomic(path, set_sheets.beside(groups))
    return path


def _real_images(spec: SetSpec, real: SetSpec | None) -> Look | None:
    """The real images by their place, where they are at hand."""
    if real is not None and not real.skip_unreadable:
        return lambda index: image_at(real, index)
    if spec.metrics.reference in REFERENCES and spec.metrics.real_features is None:
        images = REFERENCES[spec.metrics.reference]()
        return lambda index: images[index].permute(1, 2, 0).numpy()
    return None


def _classes(
    spec: SetSpec, places: Sequence[int], features: Tensor, known: Real, real: SetSpec | None
) -> list[ClassDistance]:
    """The distance of each class, the largest first; none where one of the sets has no labels."""
    mine = labels_of(spec)
    theirs = None if real is None else labels_of(real)
    if mine is None or theirs is None or known.features is None or len(theirs[0]) != len(known.features):
        return []
    names = list(dict.fromkeys((*mine[1], *theirs[1])))
    number = {name: index for index, name in enumerate(names)}
    labels = torch.tensor([number[mine[1][mine[0][place]]] for place in places])
    real_labels = torch.tensor([number[theirs[1][label]] for label in theirs[0]])
    found = class_distances(features, labels, known.features, real_labels)
    rows = [
        ClassDistance(
            names[label], int((labels == label).sum()), int((real_labels == label).sum()),
            item.value, item.standard_error,
        )
        for label, item in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row.distance)


def _csv(classes: Sequence[ClassDistance]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([ClassDistance._fields, *classes])
    return buffer.getvalue()
