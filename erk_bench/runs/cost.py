"""What a run would cost: counted evaluations, FLOPs of the architecture, disk, and a measured rate."""

from __future__ import annotations

import functools
import json
import math
import time
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from erk_bench.evaluation.detectors import PUBLISHED_DIM, detector_of
from erk_bench.evaluation.metrics import detectors_of
from erk_bench.networks.checkpoint import make_network
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.sizes import Architecture
from erk_bench.runs.device import Place, assets_of, memory_guard
from erk_bench.runs.equation import equation_of
from erk_bench.runs.loaded import decoder_row, network_architecture, shape_of
from erk_bench.runs.numerics import arithmetic, numerics_of
from erk_bench.spec import RunSpec, Spec

CALIBRATION_S = 20.0  # a GPU's clock and autotuning settle in less
CPU_FLOPS = 5e9  # of one evaluation: larger networks are for GPUs, and timing them here would say nothing


def count_evaluations(spec: RunSpec) -> tuple[float, float]:
    """Evaluations of the main and of the guiding network for one image, counted on a one-pixel stand-in."""
    return equation_of(spec).count_evaluations(guided=spec.guided)


def work_of(spec: Spec) -> float:
    """What an image of the spec costs beside one of another: all evaluations, or 1 for a set's."""
    return max(sum(count_evaluations(spec)), 1) if isinstance(spec, RunSpec) else 1


class Cost(NamedTuple):
    """Of one image: evaluations of the main and the guiding network, their FLOPs (a multiply-add is two), and
    bytes of its features and of its pixels.

    Evaluations, FLOPs and bytes of pixels are NaN where code of a user's own decides them: only running it
    would tell.
    """

    nfe: float
    nfe_guide: float
    flops: float
    feature_bytes: int
    image_bytes: float


def estimate(spec: RunSpec) -> Cost:
    """The cost of an image; of files that are not here, the published architecture is taken.

    Runs no code of a user's own.
    """
    assets = assets_of(spec)
    nfe, nfe_guide = (math.nan, math.nan) if spec.own_code else count_evaluations(spec)
    flops, image_bytes = math.nan, math.nan
    own = any(item.own_code for item in spec.networks)
    if not own:
        main, *guides = (network_architecture(item, assets) for item in spec.networks)
        flops = nfe * evaluation_flops(main)
        if nfe_guide and spec.guided:
            flops += nfe_guide * evaluation_flops(guides[0] if guides else main)
    rows = [detector_of(name) for name in detectors_of(spec.metrics.names)]
    features = sum(4 * ((row.dim or PUBLISHED_DIM) + row.num_logits) for row in rows)
    if not own and spec.model.decoder_path is None:
        decoder = decoder_row(spec.model, shape_of(main), torch.device("cpu"))
        image_bytes = decoder.image_channels * (main.img_resolution * decoder.factor) ** 2
    return Cost(nfe, nfe_guide, flops, features, image_bytes)


def evaluation_flops(architecture: Architecture) -> int:
    """FLOPs of one evaluation of one image, counted on shapes alone."""
    return _evaluation_flops(architecture.class_name, json.dumps(dict(architecture.arguments)))


@functools.cache
def _evaluation_flops(class_name: str, arguments: str) -> int:
    architecture = Architecture(class_name, json.loads(arguments))
    with torch.device("meta"):
        net = EDMPreconditioned(make_network(architecture)).fold()
        size = architecture.img_resolution
        x = torch.empty(1, architecture.img_channels, size, size)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            net(x, torch.tensor(1.0), None)
    return int(counter.get_total_flops())


def measured_rate(spec: RunSpec) -> float | None:
    """FLOPs a second of one worker on this machine, timed on random weights of the run's architecture.

    None where there is no GPU and the network is too large for a CPU.
    """
    place = Place.of(spec)
    device = place.device
    main = network_architecture(spec.model.weights, place.assets)
    per_image = evaluation_flops(main)
    if device.type == "cpu" and per_image > CPU_FLOPS:
        return None
    net = EDMPreconditioned(make_network(main)).fold(getattr(torch, spec.network_dtype)).to(device)
    net.to(memory_format=torch.channels_last)
    if numerics_of(spec).published_attention:
        net.network.use_published_attention()
    side = main.img_resolution
    x = torch.zeros(spec.block_size, main.img_channels, side, side, device=device)
    limit = CALIBRATION_S if device.type == "cuda" else 0.5
    start = last = time.perf_counter()
    best = float("inf")
    with torch.inference_mode(), memory_guard(spec), arithmetic(spec):
        while last - start < limit:
            net(x, torch.tensor(1.0, device=device), None).sum().item()
            now = time.perf_counter()
            best, last = min(best, now - last), now
    return per_image * spec.block_size / best
