"""Commands that come before a run: fetch, plan, reference."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table as RichTable

from erk_bench.base.assets import SOURCES, Assets
from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.files import file_sha256
from erk_bench.base.progress import progress_bar
from erk_bench.evaluation.detectors import (
    DETECTORS,
    detector_key,
    detector_of,
    load_detector,
    reference_name,
)
from erk_bench.evaluation.make_reference import make_reference
from erk_bench.evaluation.real_images import open_images
from erk_bench.reporting.table_views import DASH
from erk_bench.runs import cost as planning
from erk_bench.runs import launch
from erk_bench.runs.blocks import Worker, blocks_of
from erk_bench.runs.device import assets_of, set_up_device
from erk_bench.runs.generate import unfinished
from erk_bench.runs.needs import addresses_of
from erk_bench.settings import flag, is_whole, whole_number
from erk_bench.spec import RunSpec
from erk_bench.studies import simulate as simulating

MOST_WORKERS = 100_000  # that a simulation takes


def fetch(specs: Sequence[RunSpec], *, every_detector: bool, dry_run: bool) -> int:
    """Get every file of the runs into the cache, verify all of them; dry_run: only list them.

    every_detector: also those of metrics that the runs do not name, where they need any file at all.
    """
    assets = assets_of(specs[0])
    needed = [address for spec in specs for address in addresses_of(spec)]
    if every_detector and any(assets.url(address) for address in needed):
        needed += [row.weights for row in DETECTORS.values() if row.weights is not None]
    addresses = dict.fromkeys(address for address in needed if assets.url(address) is not None)
    print(f"{len(addresses)} files; cache {assets.cache}, lock file {assets.lock}")
    table = RichTable()
    for header in ("file", "size", "sha256", "licence", "state"):
        table.add_column(header, justify="right" if header == "size" else "left", overflow="fold")
    problems = []
    for address in addresses:
        state, was_here = "missing", assets.is_here(address)
        try:
            if not dry_run:
                assets.locate(address)
                assets.verify(address)
            if assets.is_here(address):
                state = "verified" if was_here and not dry_run else "here" if was_here else "fetched"
        except UserError as error:
            problems.append(str(error))
            state = "FAILED"
        path = assets.path(address)
        size = f"{path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else ""
        source = SOURCES.get(address.partition(":")[0])
        known = (assets.expected_sha256(address) or "")[:8]
        table.add_row(address, size, known, source.licence if source else "", state)
    wide_console().print(table)
    if problems:
        raise UserError(f"{len(problems)} of {len(addresses)} files failed: {'; '.join(problems)}")
    return 0


def plan(specs: Sequence[RunSpec], throughput: str, *, shared: bool = False, workers: str = "") -> int:
    """What is left to do, in blocks, evaluations, FLOPs, disk and time; nothing is sampled or written.

    shared: the runs are cells of a grid, and share trajectories. workers: numbers of them, with commas, for
    which the time is simulated.
    """
    counts = _worker_counts(workers) if workers else []
    table = RichTable(title="plan")
    for header in (
        "run", "images", "blocks done", "NFE / image", "evaluations left", "TFLOPs left", "features",
        "images on disk",
    ):  # fmt: skip
        table.add_column(header, justify="left" if header == "run" else "right")
    evaluations, flops, features, pixels = 0.0, 0.0, 0, 0
    rows: list[list[float]] = []  # FLOPs of each run's blocks
    unknown = list(dict.fromkeys(path for spec in specs for path in spec.own_code))
    for spec in specs:
        name, done, total = _progress_of(spec)
        left = (total - done) * spec.block_size
        cost = planning.estimate(spec)
        nfe, nfe_guide = cost.nfe, cost.nfe_guide
        known = not math.isnan(nfe)
        if known:
            evaluations += left * (nfe + nfe_guide)
            flops += left * cost.flops
            rows.append([cost.flops * spec.block_size] * (total - done))
        features += left * cost.feature_bytes
        pixels += left * cost.image_bytes
        table.add_row(
            name,
            f"{len(spec.seed_range):,}",
            f"{done} / {total}",
            (f"{nfe} + {nfe_guide}" if nfe_guide else str(nfe)) if known else DASH,
            f"{left * (nfe + nfe_guide):,.0f}" if known else DASH,
            f"{left * cost.flops / 1e12:,.0f}" if known else DASH,
            _size(left * cost.feature_bytes),
            _size(left * cost.image_bytes),
        )
    wide_console().print(table)
    kept = "" if specs[0].samples == "none" else f"; images {_size(pixels)} (samples=none keeps none)"
    all_unknown = all(spec.own_code for spec in specs)
    work = (
        "evaluations that only a run can count"
        if all_unknown
        else f"{evaluations:,.0f} network evaluations, {flops / 1e12:,.0f} TFLOPs of the networks"
    )
    print(
        f"to do: {work} (decoding and features come on top); on disk: features "
        f"{_size(features)}{kept or f', no images (they would take {_size(pixels)})'}"
    )
    if shared:
        print(
            "that is for separate runs: 'erk-bench grid' shares trajectories and needs less (a quarter to a "
            "half on the digits grid)"
        )
    if unknown:
        print(
            f"evaluations and time of {', '.join(unknown)} are not known: only running the file would tell, "
            "and planning runs nobody's code"
        )
    rate = 0.0 if all_unknown else _print_time(specs[0], flops, throughput)
    if counts and unknown:
        raise UserError(
            f"simulate needs the cost of a block, and that of {unknown[0]} is not known; leave out simulate"
        )
    if counts:
        _simulate([[block / rate / 3600 for block in row] for row in rows if row], rate, counts)
    assets = assets_of(specs[0])
    missing = dict.fromkeys(
        address for spec in specs for address in addresses_of(spec) if not assets.is_here(address)
    )
    if missing:
        print(
            f"missing: {len(missing)} files; 'erk-bench fetch' with the same settings (or table=...) gets "
            "them:"
        )
        for address in missing:
            print(f"  {address}")
    return 0


def _progress_of(spec: RunSpec) -> tuple[str, int, int]:
    """Name, finished blocks and all blocks; nothing can be finished while weights were never here."""
    total = len(blocks_of(spec.seed_range, spec.block_size))
    assets = assets_of(spec)
    if spec.unknown_weights:
        return f"{spec.slug} (not fetched)", 0, total
    if not all(assets.is_here(address) for address in addresses_of(spec)):
        return spec.run_id, 0, total
    return spec.run_id, total - len(unfinished(spec, features=True)), total


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _worker_counts(text: str) -> list[int]:
    counts = [whole_number("simulate", part) for part in text.split(",")]
    if max(counts) > MOST_WORKERS:
        raise UserError(f"simulate is '{text}'; it takes numbers of workers from 1 to {MOST_WORKERS:,}")
    return counts


def _simulate(rows: Sequence[Sequence[float]], rate: float, counts: Sequence[int]) -> None:
    """Print how long so many workers would take under each rule."""
    if not rate:
        raise UserError("simulate needs the speed of a worker; give throughput=TFLOP/s of one GPU")
    if not rows:
        print("nothing is left to simulate")
        return
    conditions = simulating.Conditions()
    table = RichTable(title=f"simulated: {sum(map(len, rows)):,} blocks of {len(rows)} runs")
    for header in ("workers", "rule", "hours", "of the shortest", "idle", "lost work"):
        table.add_column(header, justify="left" if header == "rule" else "right")
    for count in counts:
        shortest = simulating.shortest(rows, count, conditions)
        for rule in simulating.RULES:
            found = simulating.simulate(rows, count, rule, conditions)
            table.add_row(
                f"{count:,}", rule, f"{found.makespan:,.3g}", f"{found.makespan / shortest:.2f}",
                f"{found.idle:.0%}", f"{found.lost:.1%}",
            )  # fmt: skip
    wide_console().print(table)
    print(
        f"assumed: log speeds spread by {conditions.speed_spread:g}, {conditions.slow_share:.0%} of workers "
        f"at {conditions.slow_speed:g} of the speed, nodes of {simulating.NODE} preempted every "
        f"{conditions.mean_uptime:g} hours for {conditions.pause * 60:g} minutes (docs/performance.md)"
    )


def _print_time(spec: RunSpec, flops: float, throughput: str) -> float:
    """Also returns the FLOPs a second of a worker; 0 where they are not known."""
    workers = launch.default_workers(spec)
    if throughput:
        try:
            rate = float(throughput) * 1e12
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise UserError(
                f"throughput is '{throughput}'; expected TFLOP/s of one GPU, for example throughput=150"
            )
        print(f"about {flops / rate / 3600:,.2f} GPU-hours at {float(throughput):g} TFLOP/s")
        return rate
    measured = planning.measured_rate(spec)
    if measured is None:
        print("time: no GPU here; give throughput=TFLOP/s of one GPU for an estimate in GPU-hours")
        return 0.0
    hours = flops / measured / 3600
    print(
        f"about {hours:,.2f} worker-hours on this machine ({hours * 60 / workers:,.1f} minutes with "
        f"{workers} workers), at {measured / 1e12:,.2f} TFLOP/s, as just timed on this network's size"
    )
    return measured


def reference(options: Mapping[str, str]) -> int:
    """Make a file of reference statistics (and features) from real images."""
    for name in ("source", "resolution", "to"):
        if not options[name]:
            raise UserError(
                f"{name} is missing; for example source=imagenet/val resolution=512 to=val512.safetensors"
            )
    numbers = {name: _whole(name, options[name]) for name in ("resolution", "limit", "shuffle_seed", "batch")}
    resolution, batch = numbers["resolution"], numbers["batch"]
    assert resolution is not None and batch is not None
    names = [name for name in options["detectors"].split(",") if name]
    for name in names:
        size = detector_of(name).resolution
        if size not in (None, resolution):
            raise UserError(
                f"detector '{name}' takes images of {size}x{size} pixels, and resolution is {resolution}; "
                f"write resolution={size} detectors={name}, or leave it out of detectors"
            )
    if options["device"] not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", options["device"], ("auto", "cpu", "cuda"))
    flags = {name: flag(name, options[name]) for name in ("offline", "keep_features")}
    worker = Worker.from_environment()
    if worker is not None and worker.world_size > 1:
        raise UserError(
            f"reference works in one process, and WORLD_SIZE is {worker.world_size}; start it without "
            "torchrun"
        )
    assets = Assets.from_environment(flags["offline"])
    device = set_up_device(options["device"], 0)
    images = open_images(options["source"])
    if images.remark:
        print(images.remark, file=sys.stderr)
    count = min(len(images.names), numbers["limit"] or len(images.names))
    keys, extractors = {}, {}
    for name in names:
        weights = detector_of(name).weights
        if weights is not None:
            assets.locate(weights)
        keys[reference_name(name)] = key = detector_key(name, assets)
        extractors[reference_name(name)] = load_detector(name, assets, device, key)
    to = Path(options["to"]).expanduser()
    with progress_bar(f"reference {to.name}", count, count, shown=True) as bar:
        make_reference(
            images, resolution, extractors, keys, to,
            keep_features=flags["keep_features"], limit=numbers["limit"],
            shuffle_seed=numbers["shuffle_seed"], batch=batch, advance=lambda done: bar(done, done),
            tell=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
    left_out = f" ({images.num_left_out} files left out)" if images.num_left_out else ""
    print(f"{to}: {', '.join(names)} of {count} images{left_out}, sha256 {file_sha256(to)}")
    print(f"use it: metrics.reference={to}, or metrics.real_features={to} if it has features")
    return 0


def _whole(name: str, text: str) -> int | None:
    if not text:
        return None
    if not is_whole(text) or int(text) < (0 if name == "shuffle_seed" else 1):
        raise UserError(f"{name} is '{text}'; expected a whole number")
    return int(text)
