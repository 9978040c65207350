"""The pipeline on one page: RunSpec -> blocks of samples -> features -> Record.

Each stage can be stopped, resumed and run again alone; stages meet in the files of a RunStore.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from erk_bench.errors import UserError, unknown_name
from erk_bench.evaluation.detectors import DETECTORS, REFERENCES, Detector
from erk_bench.evaluation.metrics import Extracted, check_count, detectors_of, measure
from erk_bench.networks.checkpoint import build_denoiser, file_sha256, read_checkpoint
from erk_bench.networks.edm2 import Precond
from erk_bench.networks.latents import DECODERS
from erk_bench.reporting.records import (
    MetricRecord,
    Record,
    device_name,
    environment,
    read_record,
    write_record,
)
from erk_bench.sampling.guidance import CORRECTIONS, GUIDANCES
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.sampling.seeds import SeededDraws, initial
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec, WeightsSpec, to_dict
from erk_bench.storage.assets import locate
from erk_bench.storage.blocks import Block, Worker, blocks_of
from erk_bench.storage.store import ImageBlock, RunStore, Timing

# Called after every finished block with its run and the number of its images.
Progress = Callable[[RunSpec, int], None]


def check_names(spec: RunSpec) -> None:
    """Refuse a spec that names what no table has, before any work."""
    for kind, name, table in (
        ("solver", spec.solver.name, SOLVERS),
        ("schedule", spec.schedule.name, SCHEDULES),
        ("guidance", spec.guidance.name, GUIDANCES),
        ("correction", spec.correction.name, CORRECTIONS),
        ("decoder", spec.model.decoder, DECODERS),
        ("reference", spec.metrics.reference, REFERENCES),
    ):
        if name not in table:
            raise unknown_name(kind, name, table)
    detectors_of(spec.metrics.names)
    if spec.correction.w_stiff and not SOLVERS[spec.solver.name].paired:
        paired = ", ".join(name for name, row in SOLVERS.items() if row.paired)
        raise UserError(
            f"solver '{spec.solver.name}' has no embedded pair for correction '{spec.correction.name}'; "
            f"use correction=none, or one of these solvers: {paired}"
        )


def check_enough(spec: RunSpec) -> None:
    """Refuse too few seeds for the metrics before any image is made."""
    check_count(spec.metrics, len(spec.seed_range))


def pick_device(spec: RunSpec, worker: Worker) -> torch.device:
    """The worker's device: its own GPU if there are any and the spec allows, else the CPU."""
    if spec.device not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", spec.device, ("auto", "cpu", "cuda"))
    available = torch.cuda.is_available()
    if spec.device == "cuda" and not available:
        raise UserError("device is 'cuda' but torch sees no GPU; use device=cpu, or see 'erk-bench doctor'")
    if spec.device == "cpu" or not available:
        # One thread a worker: bytes must not depend on the number of cores. Use more workers instead.
        torch.set_num_threads(1)
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", worker.local_rank % torch.cuda.device_count())


@functools.lru_cache(maxsize=4)
def network(weights: WeightsSpec, device: torch.device, network_dtype: str) -> Precond:
    """A checkpoint's network, kept for the next block. Raises UserError if its sha256 is another."""
    path = locate(weights.path)
    found = file_sha256(path)
    if found != weights.sha256:
        raise UserError(
            f"'{path}' has sha256 {found}, not {weights.sha256}; the file changed or is damaged: "
            "fetch it again, or clear the sha256 in its config to accept the new file"
        )
    return build_denoiser(read_checkpoint(path), device, getattr(torch, network_dtype))


def sample_block(spec: RunSpec, seeds: Sequence[int], device: torch.device) -> ImageBlock:
    """Draw, sample and decode the images of `seeds`; the same for whoever calls.

    Raises UserError naming the seeds whose result is not finite.
    """
    net = network(spec.model.weights, device, spec.network_dtype)
    decoder = DECODERS[spec.model.decoder]
    if net.img_channels != decoder.channels:
        raise UserError(
            f"decoder '{spec.model.decoder}' takes {decoder.channels} channels, the model has "
            f"{net.img_channels}; set model.decoder to the model's own"
        )
    guide = None
    if spec.guidance.guide is not None and spec.guidance.weight != 1:
        guide = network(spec.guidance.guide, device, spec.network_dtype)
        shapes = [(each.img_channels, each.img_resolution) for each in (net, guide)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"main and guiding network differ in (channels, resolution): {shapes[0]} and {shapes[1]}"
            )
    if spec.class_label is not None and not 0 <= spec.class_label < net.label_dim:
        raise UserError(
            f"class_label is {spec.class_label}; this model has labels 0 to {net.label_dim - 1}"
            if net.label_dim
            else "class_label is set but the model is unconditional; use class_label=null"
        )
    draws = SeededDraws(seeds, device if spec.draw_device == "cuda" else "cpu")
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    noise, labels = initial(draws, shape, net.label_dim, spec.class_label)
    sampled = sample_counted(
        net,
        noise.to(device),
        None if labels is None else labels.to(device),
        **sampler_options(spec, guide),
        fresh_noise=draws.normal_like,
    )
    finite = sampled.x.isfinite().flatten(1).all(dim=1).tolist()
    bad = [seed for seed, good in zip(seeds, finite, strict=True) if not good]
    if bad:
        raise UserError(
            f"the sampler's result is not finite for seeds {', '.join(map(str, bad[:5]))}"
            f"{' and others' if len(bad) > 5 else ''} ({len(bad)} of {len(seeds)}) in {spec.run_id}; nothing "
            "was written for this block. Try network_dtype=float32 or a smaller w_stiff"
        )
    images = decoder.decode(sampled.x).cpu()
    classes = labels.argmax(1).cpu() if labels is not None else torch.full((len(seeds),), -1)
    return ImageBlock(images, classes, sampled.nfe, sampled.nfe_guide)


def sampler_options(spec: RunSpec, guide: Callable[..., torch.Tensor] | None) -> dict[str, Any]:
    """The spec as options of `sample`."""
    return {
        "solver": spec.solver.name,
        "num_steps": spec.schedule.num_steps,
        "w_stiff": spec.correction.w_stiff,
        "w_con": spec.correction.w_con,
        "guide": guide,
        "guidance": spec.guidance.weight,
        "guidance_interval": spec.guidance.interval,
        "schedule": spec.schedule.name,
        "sigma_min": spec.schedule.sigma_min,
        "sigma_max": spec.schedule.sigma_max,
        "rho": spec.schedule.rho,
        "dtype": getattr(torch, spec.dtype),
        "s_churn": spec.solver.s_churn,
        "s_min": spec.solver.s_min,
        "s_max": spec.solver.s_max,
        "s_noise": spec.solver.s_noise,
    }


def load_detectors(spec: RunSpec, device: torch.device | str = "cpu") -> dict[str, Detector]:
    """The detectors that the spec's metrics need, by name."""
    return {name: _detector(name, device) for name in detectors_of(spec.metrics.names)}


@functools.cache
def _detector(name: str, device: torch.device | str) -> Detector:
    return DETECTORS[name](device)


def unfinished(spec: RunSpec, *, features: bool) -> list[Block]:
    """The blocks of the spec's seeds that still lack features (or, for features=False, images)."""
    blocks = blocks_of(spec.seed_range, spec.block_size)
    store = RunStore.open(spec)
    if not features:
        return [block for block in blocks if not store.has_images(block)]
    keys = [detector.key for detector in load_detectors(spec).values()]
    return [block for block in blocks if not all(store.has_features(key, block) for key in keys)]


def generate(
    groups: Sequence[Sequence[RunSpec]], worker: Worker, progress: Progress, *, features: bool
) -> None:
    """This worker's share of the images of every spec and, if asked, of their features.

    Group after group; within one, specs take turns block by block, so that their timings compare. Finished
    blocks are skipped; where features are asked for and all there, images may have been deleted.
    Raises UserError for anything a user can put right; finished blocks stay.
    """
    device = pick_device(groups[0][0], worker)
    with ExitStack() as locks:
        stores = {}
        for spec in itertools.chain(*groups):
            if spec.run_id in stores:
                continue
            check_names(spec)
            store = stores[spec.run_id] = RunStore.open(spec)
            locks.enter_context(store.worker_lock(worker))
            store.create()
        for group in groups:
            shares = [worker.owned(blocks_of(spec.seed_range, spec.block_size)) for spec in group]
            for turn in itertools.zip_longest(*shares):
                for spec, block in zip(group, turn, strict=True):
                    detectors = load_detectors(spec, device) if features else {}
                    store = stores[spec.run_id]
                    if block and _finish(spec, store, list(detectors.values()), block, worker, device):
                        progress(spec, len(block.seeds))


def _finish(
    spec: RunSpec,
    store: RunStore,
    detectors: Sequence[Detector],
    block: Block,
    worker: Worker,
    device: torch.device,
) -> bool:
    """Write what a block lacks; False if it lacked nothing."""
    wanted = [detector for detector in detectors if not store.has_features(detector.key, block)]
    if detectors and not wanted:
        return False
    if not store.has_images(block):
        start = time.perf_counter()
        content = sample_block(spec, block.seeds, device)
        seconds = time.perf_counter() - start
        store.write_images(block, content)
        store.note_timing(worker, block, Timing(seconds, device_name(device)))
    elif not wanted:
        return False
    for detector in wanted:
        content = store.read_images(block)
        counts = {"nfe": content.nfe, "nfe_guide": content.nfe_guide}
        store.write_features(detector.key, block, detector.extract(content.images), counts)
    return True


@functools.cache
def _reference(name: str, detector: str) -> tuple[Extracted, str]:
    """Features of a set of real images, and the sha256 of its pixels."""
    images = REFERENCES[name]()
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return Extracted(**_detector(detector, "cpu").extract(images)), digest


def score(spec: RunSpec) -> Record:
    """Compute every metric from the kept features and write the record beside them.

    Raises UserError, counting the missing blocks, while the features are not complete.
    """
    store = RunStore.open(spec)
    seeds = spec.seed_range
    blocks = blocks_of(seeds, spec.block_size)
    detectors = load_detectors(spec)
    missing = unfinished(spec, features=True)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(blocks)} blocks of {spec.run_id} are missing (first: {missing[0]}); "
            "run 'erk-bench run' again with the same arguments: finished blocks are kept"
        )
    extracted, real, hashes = {}, {}, {}
    counts = set()
    for name, detector in detectors.items():
        parts = []
        for block in blocks:
            tensors, meta = store.read_features(detector.key, block)
            counts.add((meta["nfe"], meta["nfe_guide"]))
            kept = slice(max(seeds[0] - block.seeds[0], 0), seeds[-1] - block.seeds[0] + 1)
            parts.append({key: value[kept] for key, value in tensors.items()})
        extracted[name] = Extracted(*(torch.cat([part[key] for part in parts]) for key in Extracted._fields))
        if not all(value.isfinite().all() for value in extracted[name]):
            raise UserError(f"features of {spec.run_id} by '{name}' are not finite; check its weights")
        real[name], hashes[name] = _reference(spec.metrics.reference, name)
    (nfe, nfe_guide), *others = counts
    if others:
        raise UserError(f"blocks of {spec.run_id} differ in network evaluations: {sorted(counts)}")
    measured = measure(spec.metrics, extracted, real)
    timings = store.timings()
    timed = {block.index: timings[block.index] for block in blocks if block.index in timings}
    record = Record(
        run_id=spec.run_id,
        spec=to_dict(spec),
        seeds=spec.seeds,
        num_images=len(seeds),
        nfe=nfe,
        nfe_guide=nfe_guide,
        metrics={
            name: MetricRecord(item.value, item.standard_error, item.replicates)
            for name, item in measured.items()
        },
        seconds_per_block={str(index): round(timing.seconds, 6) for index, timing in timed.items()},
        reference={"name": spec.metrics.reference, "sha256": next(iter(hashes.values()))},
        detectors=tuple(detector.key for detector in detectors.values()),
        environment={
            **environment(pick_device(spec, Worker())),
            "sampled_on": sorted({timing.device for timing in timed.values()}),
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_record(record_path(spec), record)
    return record


def record_path(spec: RunSpec) -> Path:
    """Where `score` writes the record of a spec and its seeds."""
    return RunStore.folder_of(spec) / "records" / f"{spec.seeds}.json"


def finished_record(spec: RunSpec) -> Record | None:
    """The record of an earlier run of the same samples, seeds and metrics, if there is one."""
    path = record_path(spec)
    if not path.is_file():
        return None
    record = read_record(path)
    keys = tuple(detector.key for detector in load_detectors(spec).values())
    same = record.run_spec.metrics == spec.metrics and record.detectors == keys
    return record if same else None
