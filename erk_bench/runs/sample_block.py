"""The images of one block of seeds: of one run, or of a tree of runs that differ in ERK-Guid alone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import to_device, to_host
from erk_bench.networks.denoiser import Denoiser
from erk_bench.runs.checks import check_shapes
from erk_bench.runs.device import Place, check_draws, memory_guard
from erk_bench.runs.equation import equation_of
from erk_bench.runs.loaded import decoder, network, shape_of
from erk_bench.runs.numerics import arithmetic, compiles, numerics_of
from erk_bench.runs.store import ImageBlock
from erk_bench.sampling.sample import solve
from erk_bench.sampling.seeds import SeededDraws, initial
from erk_bench.sampling.shared import solve_grid
from erk_bench.spec import CorrectionSpec, RunSpec, Spec


class SampledBlock(NamedTuple):
    """Images and final states [B, C, H, W] of a block where they were made; `host` waits for the images' copy
    in host memory. Where nobody asked for images there are none.

    nfe, nfe_guide: counted calls of the networks. seconds: wall time of drawing and sampling, without
    decoding.
    """

    on_device: Tensor | None
    states: Tensor
    host: Callable[[], ImageBlock]
    nfe: float
    nfe_guide: float
    seconds: float


class SampledTree(NamedTuple):
    """A block's images of several runs, each distinct one once.

    images: uint8 [R, C, H, W] where they were made; states: of each. rows: int64 on the CPU, the block's
    images of each run. classes: int64 [B]. nfe, nfe_guide: of a separate run. seconds: of drawing and
    sampling. evaluations: of single images by all networks, counted. errors: of each run, why its result is
    of no use, if it is not.
    """

    images: Tensor
    states: Tensor
    rows: list[Tensor]
    classes: Tensor
    nfe: float
    nfe_guide: float
    seconds: float
    evaluations: int
    errors: list[UserError | None]

    def block(self, number: int) -> ImageBlock:
        """The images of the run of that number, in host memory."""
        images = self.images[self.rows[number].to(self.images.device)].cpu()
        return ImageBlock(images, self.classes, self.nfe, self.nfe_guide)


def sample_block(spec: RunSpec, seeds: Sequence[int], place: Place, *, decoded: bool = True) -> SampledBlock:
    """Draw, sample and decode the images of `seeds`; the same for whoever calls.

    decoded: without, there are states and no images.
    Raises UserError naming the seeds whose result is not finite, or a batch that fits into the GPU's memory.
    """
    check_draws(spec)
    with memory_guard(spec), arithmetic(spec):
        start = time.perf_counter()
        drawn = draw_block(spec, seeds, place)
        sampled = solve(
            equation_of(spec), drawn.net, drawn.noise, drawn.condition,
            guide=drawn.guide, fresh_noise=drawn.draws.normal_like,
        )  # fmt: skip
        error = _not_finite(spec, seeds, _finite(sampled.x))
        if error:
            raise error
        seconds = time.perf_counter() - start  # the check waited for the device
        counts = (sampled.nfe, sampled.nfe_guide)
        if not decoded:
            return SampledBlock(None, sampled.x, _no_images, *counts, seconds)
        images = decoder(spec.model, shape_of(drawn.net), place.device, place.assets, numerics_of(spec))(
            sampled.x
        )
        copied = to_host(images)
        return SampledBlock(
            images, sampled.x, lambda: ImageBlock(copied(), drawn.classes, *counts), *counts, seconds
        )  # fmt: skip


def sample_tree(specs: Sequence[RunSpec], seeds: Sequence[int], place: Place) -> SampledTree:
    """The images of `seeds` of runs that differ in ERK-Guid alone, sharing what they have in common.

    A network call holds block_size images, as in a run alone. Raises UserError as `sample_block` does, but
    keeps results that are not finite apart: the other runs are as good as ever.
    """
    spec = specs[0]
    check_draws(spec)
    with memory_guard(spec), arithmetic(spec):
        start = time.perf_counter()
        drawn = draw_block(spec, seeds, place)
        # The plain run may come first, and names no correction.
        corrected = next((each for each in specs if each.correction.w_stiff), spec)
        sampled = solve_grid(
            equation_of(corrected),
            drawn.net,
            drawn.noise,
            drawn.condition,
            cells=[(each.correction.w_stiff, each.correction.w_con) for each in specs],
            guide=drawn.guide,
            branch_limit=spec.block_size,
        )
        finite = _finite(sampled.states)
        rows = list(sampled.rows.cpu())
        errors = [_not_finite(each, seeds, finite[mine]) for each, mine in zip(specs, rows, strict=True)]
        seconds = time.perf_counter() - start
        decode = decoder(spec.model, shape_of(drawn.net), place.device, place.assets, numerics_of(spec))
        states = sampled.states.nan_to_num()  # what is not finite is never shown
        images = torch.cat([decode(part) for part in states.split(spec.block_size)])
    return SampledTree(
        images, states, rows, drawn.classes, sampled.nfe, sampled.nfe_guide, seconds,
        sampled.evaluations, errors,
    )  # fmt: skip


def is_tree(specs: Sequence[Spec]) -> bool:
    """Whether runs on the same seeds differ in one correction's settings alone and can share trajectories."""
    runs = [spec for spec in specs if isinstance(spec, RunSpec)]
    return (
        len(runs) == len(specs)
        and len({spec.baseline.digest for spec in runs}) == 1
        and len({_method(spec.correction) for spec in runs if spec.correction.w_stiff}) <= 1
        and all(equation_of(spec).shares for spec in runs)
    )


def _method(correction: CorrectionSpec) -> CorrectionSpec:
    return dataclasses.replace(correction, w_stiff=0.0, w_con=0.0)


class Drawn(NamedTuple):
    """What a block starts from: networks, seeded draws, unit noise and class numbers (None without classes)
    on the device, class numbers (-1 without) on the CPU."""

    net: Denoiser
    guide: Denoiser | None
    draws: SeededDraws
    noise: Tensor
    condition: Tensor | None
    classes: Tensor


def draw_block(spec: RunSpec, seeds: Sequence[int], place: Place) -> Drawn:
    """The networks, and noise and classes of the seeds on the device."""
    assets, device = place.assets, place.device
    how = (spec.network_dtype, assets, compiles(spec, device), numerics_of(spec).published_attention)
    net = network(spec.model.weights, device, *how)
    guide = net if spec.guidance.null_class and spec.guidance.needs_guide else None
    if spec.guidance.guide is not None and spec.guidance.needs_guide:
        guide = network(spec.guidance.guide, device, *how)
    check_shapes(spec, shape_of(net), None if guide is None else shape_of(guide))
    draws = SeededDraws(seeds, device if spec.draw_device == "cuda" else spec.draw_device)
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    noise, classes = initial(draws, shape, net.num_classes, spec.class_label)
    condition = None if classes is None else to_device(classes, device)
    numbers = torch.full((len(seeds),), -1) if classes is None else classes.cpu()
    return Drawn(net, guide, draws, to_device(noise, device), condition, numbers)


def _no_images() -> ImageBlock:
    raise AssertionError("nobody asked for images")


def _finite(x: Tensor) -> Tensor:
    """Which states [B, C, H, W] are finite: bool [B] on the CPU."""
    return x.isfinite().flatten(1).all(dim=1).cpu()


def _not_finite(spec: RunSpec, seeds: Sequence[int], finite: Tensor) -> UserError | None:
    """The error that names the seeds whose result is not finite, if there are any."""
    bad = [seed for seed, good in zip(seeds, finite.tolist(), strict=True) if not good]
    if not bad:
        return None
    own = f"another solver than that of '{spec.solver.path}', " if spec.solver.path else ""
    return UserError(
        f"the sampler's result is not finite for seeds {', '.join(map(str, bad[:5]))}"
        f"{' and others' if len(bad) > 5 else ''} ({len(bad)} of {len(seeds)}) in {spec.run_id}; nothing "
        f"was written for this block. Try {own}network_dtype=float32 or a smaller w_stiff"
    )
