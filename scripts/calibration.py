"""How right the standard errors are: stated ones beside the real spread over many sets of digits.

Samples sets of digits by three methods from the same seeds, measures every metric of each set, and compares
the mean stated standard error with the standard deviation of the values over the sets: of single runs, and
of paired differences of two methods. Writes calibration.md and calibration.json.
Usage: python scripts/calibration.py [--sets 48] [--images 1000] [--pool FOLDER] [--to results/bench]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation.detectors import load_detector
from erk_bench.evaluation.families import FAMILIES
from erk_bench.evaluation.measured import Extracted, Measured
from erk_bench.evaluation.metrics import check_count, measure
from erk_bench.evaluation.reference import load_real
from erk_bench.evaluation.solver_error import rms_distances
from erk_bench.runs.device import Place
from erk_bench.runs.records import MetricRecord
from erk_bench.runs.sample_block import sample_block
from erk_bench.spec import MetricsSpec
from erk_bench.studies.verdicts import paired_error

METHODS = {
    "Heun, 6 steps": ["schedule.num_steps=6"],
    "ERK-Guid, 6 steps": [
        "schedule.num_steps=6", "correction=erk_guid", "correction.w_stiff=0.75", "correction.w_con=0.3",
    ],
    "iPNDM, 8 steps": ["solver=ipndm", "schedule.num_steps=8"],
}  # fmt: skip
SOLUTION = ["solver=deis", "schedule.num_steps=49"]  # what solver errors are distances to
BATCH = 500
RESAMPLES = 1000  # of the sets, for the uncertainty of a ratio

HEAD = """# How right the standard errors are

Made by `{command}`.

{sets} sets of {images:,} digits for each method, of the same seeds. A figure is the stated standard error
(root mean square over the sets) over the real one (standard deviation of the values over the sets). 1 is
right; above 1 the stated error is too large. ± is one standard error of the figure itself. The last column is
the real standard error of a run of the first method. Solver errors are distances of features to those of DEIS
with 48 steps.

"""

Measurement = Mapping[str, MetricRecord]


class Ratio(NamedTuple):
    """Stated error over real spread, the uncertainty of that, and the real spread."""

    ratio: float
    uncertainty: float
    spread: float


def calibration(values: Sequence[float], errors: Sequence[float]) -> Ratio:
    """Root mean square of the stated errors over the standard deviation of the values, of many sets.

    Its uncertainty is its standard deviation over random choices of as many sets.
    """
    value, square = np.array(values), np.square(errors)
    spread = float(value.std(ddof=1))
    if spread == 0:
        return Ratio(float("nan"), float("nan"), 0.0)
    chosen = np.random.RandomState(0).randint(len(value), size=(RESAMPLES, len(value)))
    spreads = value[chosen].std(1, ddof=1)
    again = np.sqrt(square[chosen].mean(1))[spreads > 0] / spreads[spreads > 0]
    return Ratio(float(np.sqrt(square.mean()) / spread), float(again.std()), spread)


def single(runs: Sequence[Measurement], name: str) -> Ratio:
    """Of single runs, each of another set."""
    found = [run[name] for run in runs]
    return calibration([each.value for each in found], [each.standard_error for each in found])


def paired(runs: Sequence[Measurement], others: Sequence[Measurement], name: str) -> Ratio:
    """Of differences of runs of the same seeds."""
    pairs = [(run[name], other[name]) for run, other in zip(runs, others, strict=True)]
    return calibration([a.value - b.value for a, b in pairs], [paired_error(a, b) for a, b in pairs])


def record_of(measured: Mapping[str, Measured]) -> Measurement:
    """What a record would hold."""
    return {
        name: MetricRecord(item.value, item.standard_error, item.replicates, item.halves)
        for name, item in measured.items()
    }


def features(words: Sequence[str], count: int, file: Path) -> dict[str, torch.Tensor]:
    """Features and logits of the first `count` seeds of a method, kept in a file."""
    if not file.is_file():
        spec = run_spec(["track=digits", "device=cpu", *words])
        place = Place.of(spec)
        detector = load_detector("digits", place.assets, place.device)
        parts = [
            detector(sample_block(spec, range(first, min(first + BATCH, count)), place).on_device)
            for first in range(0, count, BATCH)
        ]
        save_file({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, file)
    found = load_file(file)
    if len(found["features"]) < count:
        raise UserError(f"'{file}' has {len(found['features'])} images; delete it, or take fewer sets")
    return found


def metrics_spec(num_images: int) -> MetricsSpec:
    """Every family that the digits detector and so many images allow."""
    spec = run_spec(["track=digits"]).metrics
    names = []
    for family in FAMILIES:
        try:
            check_count(dataclasses.replace(spec, names=(f"{family}@digits",)), num_images)
        except UserError:
            continue
        names.append(f"{family}@digits")
    return dataclasses.replace(spec, names=tuple(names))


def measure_set(
    spec: MetricsSpec, features: torch.Tensor, logits: torch.Tensor, solution: torch.Tensor
) -> Measurement:
    """One set. solution: features of the converged solutions of its seeds."""
    torch.set_num_threads(1)
    place = Place.of(run_spec(["track=digits", "device=cpu"]))
    real = load_real(spec, place.assets)
    distances = {"digits": rms_distances(features, solution)}
    return record_of(measure(spec, {"digits": Extracted(features, logits)}, real, distances=distances))


def report(content: Mapping[str, Any]) -> str:
    """The Markdown page."""
    columns = list(content["rows"][0]["ratios"])
    text = HEAD.format(**content)
    head = ["metric", "error from", *columns, "real spread"]
    rows = [head, ["---"] * len(head)]
    for row in content["rows"]:
        ratios = [
            "no spread" if item[2] == 0 else f"{item[0]:.2f} ± {item[1]:.2f}"
            for item in row["ratios"].values()
        ]
        rows.append([row["metric"], row["error from"], *ratios, f"{row['ratios'][columns[0]][2]:.3g}"])
    return text + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=48)
    parser.add_argument("--images", type=int, default=1000, help="of a set")
    parser.add_argument("--pool", type=Path, default=None, help="keeps features here for another time")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path, default=Path("results/bench"), help="folder for the page")
    given = sys.argv[1:] if arguments is None else list(arguments)
    words = parser.parse_args(given)
    spec = metrics_spec(words.images)
    runs: dict[str, list[Measurement]] = {}
    with TemporaryDirectory() as folder, ProcessPoolExecutor(words.workers) as processes:
        pool = words.pool or Path(folder)
        pool.mkdir(parents=True, exist_ok=True)
        count = words.sets * words.images
        solution = features(SOLUTION, count, pool / "solution.safetensors")["features"][:count]
        for number, (name, settings) in enumerate(METHODS.items()):
            found = features(settings, count, pool / f"{number}.safetensors")
            every = (found["features"][:count], found["logits"][:count], solution)
            parts = [each.split(words.images) for each in every]
            runs[name] = list(processes.map(measure_set, [spec] * words.sets, *parts))
            print(f"{name}: {words.sets} sets measured", flush=True)
    first, *others = runs
    ratio_of: dict[str, Callable[[str], Ratio]] = {
        **{name: lambda metric, name=name: single(runs[name], metric) for name in runs},
        **{
            f"{other.split(',')[0]} - {first.split(',')[0]}": lambda metric, other=other: paired(
                runs[other], runs[first], metric
            )
            for other in others
        },
    }
    rows = [
        {
            "metric": metric.removesuffix("_digits").removesuffix("@digits"),
            "error from": "halves" if runs[first][0][metric].halves else "groups",
            "ratios": {name: ratio(metric) for name, ratio in ratio_of.items()},
        }
        for metric in spec.names
    ]
    content = {
        "command": f"python scripts/calibration.py --sets {words.sets} --images {words.images}",
        "sets": words.sets, "images": words.images, "groups": spec.num_groups, "rows": rows,
    }  # fmt: skip
    write_atomic(words.to / "calibration.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(words.to / "calibration.md", report(content).encode())
    print(report(content))


if __name__ == "__main__":
    main()
