"""What a block of a run still lacks, and its completion: images, features, files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import DamagedError, UserError
from erk_bench.evaluation.detectors import KEPT, PIXELS, STATE, detector_key, extract_all
from erk_bench.evaluation.metrics import detectors_of
from erk_bench.runs.blocks import Block
from erk_bench.runs.device import Place, memory_guard
from erk_bench.runs.listing import Listing
from erk_bench.runs.numerics import arithmetic
from erk_bench.runs.records import device_name
from erk_bench.runs.sample_block import sample_block, sample_tree
from erk_bench.runs.set_block import read_block
from erk_bench.runs.store import ImageBlock, RunStore
from erk_bench.runs.timings import Timing
from erk_bench.spec import RunSpec, SetSpec, Spec


def detector_keys(spec: Spec, assets: Assets) -> dict[str, str]:
    """Name and key of the detectors that the spec's metrics need."""
    states = spec.metrics.converged.states
    return {name: detector_key(name, assets, states) for name in detectors_of(spec.metrics.names)}


def wanted_keys(spec: Spec, assets: Assets, *, features: bool) -> dict[str, str]:
    """Those that a command asks for: all, or without features the final states', which images do not give."""
    keys = detector_keys(spec, assets) if features or STATE in detectors_of(spec.metrics.names) else {}
    return keys if features else {name: key for name, key in keys.items() if name == STATE}


def npz_path(spec: Spec) -> Path:
    """Where samples=npz puts the images of the spec's seeds."""
    return RunStore.folder_of(spec) / f"samples-{spec.seeds}.npz"


def wants_images(spec: Spec) -> bool:
    """Whether the spec asks for images that must be there at the end: PNG files, or an .npz not yet written.

    Other runs need images for their features alone, so that block files may be deleted later.
    """
    return spec.samples == "png" or (spec.samples == "npz" and not npz_path(spec).is_file())


def is_kept(spec: Spec, files: RunStore | Listing, block: Block) -> bool:
    """Whether the block's images are there in a form that `samples` accepts."""
    return files.has_images(block, png=True if spec.samples == "png" else None)


class Job(NamedTuple):
    """A block of a run. keys: name and key of the detectors whose features are asked for. files: what was
    there of the run a moment ago; the store itself tells what is there now. contested: other processes may
    compute the block, too. images: they are asked for themselves.
    """

    spec: Spec
    store: RunStore
    block: Block
    keys: dict[str, str]
    files: Listing | RunStore
    contested: bool = False
    images: bool = False

    @property
    def lacking(self) -> dict[str, str]:
        """The detectors whose features are not there."""
        return {name: key for name, key in self.keys.items() if not self.files.has_features(key, self.block)}

    @property
    def keeps(self) -> bool:
        """Whether the block's images are to be written."""
        return self.spec.samples != "none" and not is_kept(self.spec, self.files, self.block)

    @property
    def is_done(self) -> bool:
        # In this order: a question about images is asked only where the answer matters.
        if self.lacking or not self.keeps:
            return not self.lacking
        return not (wants_images(self.spec) or self.images or self.files.lost_images(self.block))

    def kept_images(self) -> ImageBlock | None:
        """The block's images, if they are there and whole; damaged ones are set aside and told."""
        if not self.files.has_images(self.block):
            return None
        try:
            return self.store.read_images(self.block)
        except DamagedError as error:
            print(f"warning: {error}", file=sys.stderr)
            return None


# A job with the function that writes its files, or with the reason why there is nothing to write.
FinishedJob = tuple[Job, Callable[[], None] | UserError]


def finished(jobs: Sequence[Job], place: Place) -> Iterator[FinishedJob]:
    """Compute what a block lacks; yields each job that lacked something.

    jobs: several are the same block of runs that share their trajectories.
    """
    to_sample = []
    for job in jobs:
        if job.is_done:
            continue
        kept = job.kept_images()
        if kept is None:
            # Damaged images were set aside just now: what is there must be asked again.
            lost = job.files.has_images(job.block)
            to_sample.append(job._replace(files=job.store) if lost else job)
        else:
            yield job, _finish(job, kept, place)
    if len(to_sample) > 1:
        yield from _finished_tree(to_sample, place)
    else:
        for job in to_sample:
            yield job, _finish(job, None, place)


def _finish(job: Job, kept: ImageBlock | None, place: Place) -> Callable[[], None]:
    """One read of an image, kept or sampled, serves all detectors.

    Final states that are not there are sampled again; kept images stay as they are.
    """
    if isinstance(job.spec, SetSpec):
        return _finish_set_block(job, job.spec, place)
    timing: Timing | None = None
    host: Callable[[], ImageBlock]
    images: Tensor | None
    states: Tensor | None = None
    lacking = job.lacking
    if kept is None or STATE in lacking:
        wanted = kept is None and (job.keeps or any(name != STATE for name in lacking))
        sampled = sample_block(job.spec, job.block.seeds, place, decoded=wanted)
        images, host, counts = sampled.on_device, sampled.host, (sampled.nfe, sampled.nfe_guide)
        states = sampled.states
        timing = Timing(sampled.seconds, device_name(place.device)) if kept is None else None
    if kept is not None:
        found = kept
        images, host, counts = found.images, lambda: found, (found.nfe, found.nfe_guide)
    features = _by_key(job, _features(job, lacking, images, states, place))
    return _writer(job, host, counts, features, timing, place)


def _finish_set_block(job: Job, spec: SetSpec, place: Place) -> Callable[[], None]:
    """The features of a block of a set, without those of its images that cannot be read."""
    found = read_block(spec, job.block, place.worker)
    features = _by_key(job, _features(job, job.lacking, found.images, None, place))

    def write() -> None:
        meta = {"nfe": 0, "nfe_guide": 0, "left_out": list(found.left_out)}
        for key, tensors in features.items():
            job.store.write_features(key, job.block, tensors, meta)

    return write


def _finished_tree(jobs: Sequence[Job], place: Place) -> Iterator[FinishedJob]:
    """Sample the jobs' block together; each distinct image goes through each detector once."""
    first = jobs[0]
    specs = [job.spec for job in jobs if isinstance(job.spec, RunSpec)]
    tree = sample_tree(specs, first.block.seeds, place)
    timing = Timing(
        tree.seconds / len(jobs), device_name(place.device), len(jobs), tree.evaluations / len(jobs)
    )
    wanted = {name: key for job in jobs for name, key in job.lacking.items()}
    size = first.spec.block_size
    several = zip(tree.images.split(size), tree.states.split(size), strict=True)
    parts = [_features(first, wanted, *part, place) for part in several]
    extracted = {
        name: {item: torch.cat([part[name][item] for part in parts]) for item in parts[0][name]}
        for name in wanted
    }
    for number, job in enumerate(jobs):
        error = tree.errors[number]
        if error is not None:
            yield job, error
            continue
        features = {
            key: {item: values[tree.rows[number]] for item, values in extracted[name].items()}
            for name, key in job.lacking.items()
        }
        host = functools.partial(tree.block, number)
        yield job, _writer(job, host, (tree.nfe, tree.nfe_guide), features, timing, place)


def _features(
    job: Job, keys: Mapping[str, str], images: Tensor | None, states: Tensor | None, place: Place
) -> dict[str, dict[str, Tensor]]:
    """What detectors give, and what is kept of the samples, by name. keys: of each."""
    networks = {name: key for name, key in keys.items() if name not in KEPT}
    found: dict[str, dict[str, Tensor]] = {}
    if images is not None:
        with memory_guard(job.spec), arithmetic(job.spec):
            found = extract_all(networks, place.assets, place.device, images)
        if PIXELS in keys:
            found[PIXELS] = {"features": images.flatten(1).cpu()}
    if STATE in keys and states is not None:
        dtype = getattr(torch, job.spec.metrics.converged.states)
        found[STATE] = {"features": states.flatten(1).to(dtype).cpu()}
    for name, tensors in found.items():
        if not all(value.isfinite().all() for value in tensors.values()):
            raise UserError(
                f"features of {job.spec.run_id}, {job.block}, by '{name}' are not finite; check its weights"
            )
    return found


def _by_key(job: Job, features: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {job.keys[name]: tensors for name, tensors in features.items()}


def _writer(
    job: Job,
    host: Callable[[], ImageBlock],
    counts: tuple[float, float],
    features: dict[str, dict[str, Tensor]],
    timing: Timing | None,
    place: Place,
) -> Callable[[], None]:
    """The function that writes a block's images (from `host`, where they are kept), timing and features."""
    keep = job.keeps
    meta = {"nfe": counts[0], "nfe_guide": counts[1]}

    def write() -> None:
        # Files of a block come from one device, as two kinds of cards round differently: the first decides.
        ours = True
        if keep:
            png = job.spec.samples == "png"
            ours = job.store.write_images(job.block, host(), png=png, contested=job.contested)
        if timing is not None and ours:
            job.store.note_timing(place.worker, job.block, timing)
        for key, tensors in features.items():
            ours = ours and job.store.write_features(key, job.block, tensors, meta, contested=job.contested)

    return write
