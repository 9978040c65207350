"""From a run's kept features to its record, and the records of earlier launches."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import DamagedError, UserError
from erk_bench.base.fields import to_dict
from erk_bench.evaluation.detectors import detector_key
from erk_bench.evaluation.measured import Extracted
from erk_bench.evaluation.metrics import code_keys, detectors_of, key_names, measure, solver_errors
from erk_bench.evaluation.reference import load_real, reference_facts
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.converged import converged_runs
from erk_bench.runs.device import Place, assets_of
from erk_bench.runs.equation import equation_of
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.generate import unfinished
from erk_bench.runs.records import MetricRecord, Record, environment, read_record, write_record
from erk_bench.runs.set_block import with_findings
from erk_bench.runs.solver_errors import distances_of
from erk_bench.runs.store import RunStore, set_aside
from erk_bench.runs.timings import Timing
from erk_bench.spec import PROTOCOL, RunSpec, SetSpec, Spec


def score(spec: Spec, place: Place | None = None, *, complete: bool = False) -> Record:
    """Compute every metric from the kept features and write the record beside them.

    complete: the caller knows that no block is missing, such as after a launch; the disk is not asked again.
    place: looked up, if not given.
    Raises UserError, counting the missing blocks, while the features are not complete.
    """
    place = place or Place.of(spec)
    store = RunStore.open(spec)
    seeds = spec.seed_range
    blocks = blocks_of(seeds, spec.block_size)
    missing = [] if complete else unfinished(spec, place.assets, features=True)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(blocks)} blocks of {spec.run_id} are missing (first: {missing[0]}); "
            "run 'erk-bench run' again with the same arguments: finished blocks are kept"
        )
    keys = detector_keys(spec, place.assets)
    of_images = detectors_of(spec.metrics.names, distances=False)
    kept = kept_features(spec, {name: keys[name] for name in of_images})
    counts, left_out = kept.counts, kept.left_out
    distances: dict[str, Tensor] = {}
    converged: dict[str, Any] = {}
    if isinstance(spec, RunSpec) and solver_errors(spec.metrics.names):
        distances, more, converged = distances_of(spec, place.assets)
        counts += more
    if len(set(counts)) > 1 and not _adaptive(spec):
        raise UserError(f"blocks of {spec.run_id} differ in network evaluations: {sorted(set(counts))}")
    found: dict[str, Any] = {}
    if isinstance(spec, SetSpec):
        spec, found = with_findings(spec, left_out)
        if left_out and not spec.skip_unreadable:
            named = found["unreadable"][0]
            raise UserError(
                f"{len(left_out)} images of '{spec.images}' could not be read (first: '{named}'); copy them "
                "again, or leave them out with skip_unreadable=true"
            )
    nfe, nfe_guide = (_mean(column) for column in zip(*counts, strict=True))
    # A set without numbers is in the order of its names: class by class, where it has class folders.
    named = isinstance(spec, SetSpec) and not spec.numbers
    real = load_real(spec.metrics, place.assets, place.device)
    measured = measure(spec.metrics, kept.extracted, real, distances=distances, shuffled=named)
    reference = reference_facts(spec.metrics, place.assets)
    if isinstance(spec, SetSpec) and reference.get("sha256") == spec.sha256:
        found["reference"] = True
    timings = store.timings()
    timed = {block.index: timings[block.index] for block in blocks if block.index in timings}
    record = Record(
        run_id=spec.run_id,
        spec=to_dict(spec),
        seeds=spec.seeds,
        num_images=len(seeds) - len(left_out),
        nfe=nfe,
        nfe_guide=nfe_guide,
        metrics={
            name: MetricRecord(item.value, item.standard_error, item.replicates, item.halves)
            for name, item in measured.items()
        },
        seconds_per_block={
            str(index): round(timing.seconds, 6) for index, timing in timed.items() if timing.cells == 1
        },
        reference=reference,
        detectors=(*keys.values(), *code_keys(spec.metrics.names)),
        environment={
            **environment(place.device),
            "sampled_on": sorted({timing.device for timing in timed.values()}),
            **_sharing(timed.values(), len(blocks), (nfe + nfe_guide) * spec.block_size),
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        images=found,
        converged=converged,
    )
    _keep(record_path(spec), record, spec, place.assets)
    return record


class KeptFeatures(NamedTuple):
    """What the blocks of a spec hold, in the order of its seeds.

    extracted: by detector. counts: evaluations of both networks, of each block and detector. left_out: places
    of a set's images that could not be read, rising.
    """

    extracted: dict[str, Extracted]
    counts: list[tuple[float, float]]
    left_out: list[int]


def kept_features(spec: Spec, keys: Mapping[str, str]) -> KeptFeatures:
    """The features of all seeds. keys: of the detectors, by name.

    Raises UserError where a file is missing, DamagedError where some are damaged; they are set aside then.
    """
    store, seeds = RunStore.open(spec), spec.seed_range
    found = KeptFeatures({}, [], [])
    left_out, damaged = set[int](), list[DamagedError]()
    for name, key in keys.items():
        parts = []
        for block in blocks_of(seeds, spec.block_size):
            try:
                tensors, meta = store.read_features(key, block)
            except DamagedError as error:
                damaged.append(error)
                continue
            found.counts.append((meta["nfe"], meta["nfe_guide"]))
            left_out.update(meta.get("left_out", ()))
            wanted = slice(max(seeds[0] - block.seeds[0], 0), seeds[-1] - block.seeds[0] + 1)
            parts.append({name: value[wanted] for name, value in tensors.items()})
        if not damaged:
            joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            found.extracted[name] = Extracted(joined["features"], joined.get("logits"))
    if damaged:
        raise DamagedError.of(damaged)
    return found._replace(left_out=sorted(left_out))


def _adaptive(spec: Spec) -> bool:
    """Whether its samples choose their own steps."""
    return isinstance(spec, RunSpec) and equation_of(spec, imported=False).solver.row.adaptive


def _mean(counts: Sequence[float]) -> float:
    """The evaluations of all blocks, or their mean where samples choose their own steps."""
    return counts[0] if len(set(counts)) == 1 else round(math.fsum(counts) / len(counts), 2)


def _sharing(timings: Collection[Timing], num_blocks: int, alone: float) -> dict[str, Any]:
    """How far the run's trajectories were shared with others; nothing unless all of its blocks are known.

    alone: evaluations of a block that was not shared.
    """
    cells = max((timing.cells for timing in timings), default=1)
    if cells == 1 or len(timings) < num_blocks:
        return {}
    counted = math.fsum(alone if item.evaluations is None else item.evaluations for item in timings)
    return {"shared": {"cells": cells, "evaluations": counted}}


def record_path(spec: Spec) -> Path:
    """Where `score` writes the record of a spec and its seeds.

    There is one for each protocol of the field, and of a set, one for each reference.
    """
    name = spec.seeds
    if isinstance(spec, SetSpec) or spec.metrics.protocol:
        measured = to_dict(dataclasses.replace(spec.metrics, names=("-",)))
        name += f"-{hashlib.sha256(json.dumps(measured).encode()).hexdigest()[:8]}"
    return RunStore.folder_of(spec) / "records" / f"{name}.json"


def finished_record(spec: Spec, assets: Assets | None = None) -> Record | None:
    """The record of an earlier run of the same samples, seeds and metrics, if there is one.

    assets: looked up, if not given.
    """
    record = _own_record(record_path(spec), spec)
    if record is None or (record.images.get("unreadable") and not _skips(spec)):
        return None
    if not _measured_alike(record, spec, assets or assets_of(spec)) or not set(spec.metrics.names) <= set(
        record.metrics
    ):
        return None
    if isinstance(spec, SetSpec):  # it may be called something else today, or lie elsewhere
        record = dataclasses.replace(record, spec={**record.spec, "name": spec.name, "images": spec.images})
    return _with_metrics(record, spec.metrics.names)


def _skips(spec: Spec) -> bool:
    return isinstance(spec, SetSpec) and spec.skip_unreadable


def _own_record(path: Path, spec: Spec) -> Record | None:
    """The record of a run's own folder. A damaged one is set aside: it is scored again."""
    if not path.is_file():
        return None
    try:
        record = read_record(path)
        left_out = len(record.images.get("unreadable", ()))
        if (record.run_id, record.seeds, record.num_images + left_out) == (
            spec.run_id,
            spec.seeds,
            len(spec.seed_range),
        ):
            return record
        problem = "it is of another run"
    except UserError as error:
        problem = str(error)
    set_aside(path)
    print(f"warning: the record '{path}' was damaged and is made again ({problem})", file=sys.stderr)
    return None


def _measured_alike(record: Record, spec: Spec, assets: Assets) -> bool:
    """Whether a record, whichever metrics it has, was measured as the spec asks."""
    measured = record.source.metrics
    shared = [name for name in spec.metrics.names if name in record.metrics]
    states = spec.metrics.converged.states
    keys = {*(detector_key(name, assets, states) for name in detectors_of(shared)), *code_keys(shared)}
    facts = reference_facts(spec.metrics, assets)
    converged = measured.converged  # which counts only where solver errors are shared
    if isinstance(spec, RunSpec) and solver_errors(shared):
        converged = spec.metrics.converged
        if record.converged.get("run_id") != converged_runs(spec).solution.run_id:
            return False
    return (
        dataclasses.replace(measured, names=spec.metrics.names)
        == dataclasses.replace(spec.metrics, converged=converged)
        and keys <= set(record.detectors)
        and (not record.reference or not facts or record.reference == facts)
        and record.protocol == PROTOCOL
    )


def _with_metrics(record: Record, names: Sequence[str]) -> Record:
    """The same record with some of its metrics, and the detectors that they need."""
    needed = key_names(names)
    errors = solver_errors(names)
    check = record.converged.get("check", {})
    others = set(solver_errors(tuple(record.metrics))) - set(errors)
    asked = {**record.spec["metrics"], "names": list(names)}
    if not errors:
        asked.pop("converged", None)
    return dataclasses.replace(
        record,
        reference=record.reference if len(names) > len(errors) else {},
        converged={**record.converged, "check": {key: check[key] for key in check if key not in others}}
        if errors
        else {},
        spec={**record.spec, "metrics": asked},
        metrics={name: record.metrics[name] for name in names},
        detectors=tuple(key for key in record.detectors if key.rpartition("-")[0] in needed),
    )


def _keep(path: Path, record: Record, spec: Spec, assets: Assets) -> None:
    """Write a record; metrics that an earlier one has beside, measured alike, stay in the file."""
    earlier = _own_record(path, spec)
    if earlier is not None and _measured_alike(earlier, spec, assets):
        metrics = {**earlier.metrics, **record.metrics}
        detectors = tuple(dict.fromkeys((*earlier.detectors, *record.detectors)))
        checks = {**earlier.converged.get("check", {}), **record.converged.get("check", {})}
        merged = dataclasses.replace(
            record,
            metrics=metrics,
            detectors=detectors,
            reference=record.reference or earlier.reference,
            converged={**earlier.converged, **record.converged, "check": checks} if checks else {},
        )
        record = _with_metrics(merged, tuple(metrics))
    write_record(path, record)
