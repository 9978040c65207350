"""What a run would cost: counted evaluations, FLOPs of the architecture, disk, and a measured rate."""

from __future__ import annotations

import functools
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch

from erk_bench.base.assets import Assets
from erk_bench.base.footprint import NOTHING, Footprint, Sketch, footprint
from erk_bench.evaluation.detectors import KEPT, PIXELS, PUBLISHED_DIM, STATE, detector_of, sketch_of
from erk_bench.evaluation.metrics import detectors_of
from erk_bench.networks.checkpoint import denoiser_around, make_network
from erk_bench.networks.decoders import Decoder
from erk_bench.networks.families import FAMILIES
from erk_bench.networks.sizes import Architecture
from erk_bench.runs.device import Place, assets_of, memory_guard
from erk_bench.runs.equation import equation_of
from erk_bench.runs.loaded import Shape, decoder_row, network_architecture, shape_of
from erk_bench.runs.numerics import arithmetic, numerics_of
from erk_bench.sampling.native import DEFAULT_RULES
from erk_bench.spec import RunSpec, Spec

CALIBRATION_S = 20.0  # a GPU's clock and autotuning settle in less
IMAGE_SIDE = 512  # of an image that detectors are counted on; they resize it, so that it matters little
CPU_FLOPS = 5e9  # of one evaluation: larger networks are for GPUs, and timing them here would say nothing


def count_evaluations(spec: RunSpec) -> tuple[float, float]:
    """Evaluations of the main and of the guiding network for one image, counted on a one-pixel stand-in."""
    family = spec.model.weights.family
    rules = FAMILIES[family].rules(1.0) if family else DEFAULT_RULES
    return equation_of(spec).count_evaluations(guided=spec.guided, rules=rules)


def work_of(spec: Spec) -> float:
    """What an image of the spec costs beside one of another: all evaluations, or 1 for a set's."""
    return max(sum(count_evaluations(spec)), 1) if isinstance(spec, RunSpec) else 1


class Parts(NamedTuple):
    """What one call of each network of a run takes for one image.

    network, guide: NOTHING where there is no guiding network. decoder: NOTHING where pixels are sampled.
    detectors: by name. Each is None where code of a user's own decides it.
    """

    network: Footprint | None
    guide: Footprint | None
    decoder: Footprint | None
    detectors: dict[str, Footprint | None]


class Cost(NamedTuple):
    """Of one image: evaluations of the main and the guiding network, FLOPs of the networks, of decoding and
    of the detectors (a multiply-add is two), and bytes of its features and of its pixels.

    What code of a user's own decides is NaN: only running it would tell.
    """

    nfe: float
    nfe_guide: float
    network_flops: float
    decoder_flops: float
    detector_flops: float
    feature_bytes: float
    image_bytes: float

    @property
    def other_flops(self) -> float:
        """Of decoding and detectors, as far as they are known."""
        return sum(each for each in (self.decoder_flops, self.detector_flops) if not math.isnan(each))


def parts_of(spec: RunSpec) -> Parts:
    """Counted on shapes alone; of files that are not here, the published architecture is taken.

    Runs no code of a user's own.
    """
    assets = assets_of(spec)
    found = [
        None if item.own_code else network_footprint(network_architecture(item, assets), spec.network_dtype)
        for item in spec.networks
    ]
    guide: Footprint | None = NOTHING
    if spec.guidance.needs_guide and spec.guided:
        guide = found[-1]  # the main network, where it guides itself
    return Parts(found[0], guide, _decoder(spec, assets), detector_parts(spec))


def _decoder(spec: RunSpec, assets: Assets) -> Footprint | None:
    model = spec.model
    if model.weights.own_code or model.decoder_path is not None:
        return None
    shape = shape_of(network_architecture(model.weights, assets))
    row = decoder_row(model, shape, torch.device("cpu"))
    if row.sketch is None:
        return NOTHING
    config = None if model.vae_config is None else model.vae_config.path
    path = assets.locate(config) if config is not None and assets.is_here(config) else None
    return _sketched_decoder(row, path, shape, numerics_of(spec).vae_dtype)


def detector_parts(spec: Spec) -> dict[str, Footprint | None]:
    """What the spec's detectors take for one image, by name; a view of another's pass takes nothing more."""
    names = [name for name in detectors_of(spec.metrics.names) if name not in KEPT]
    return {name: _detector(name) for name in names if detector_of(name).view_of not in names}


def estimate(spec: RunSpec) -> Cost:
    """The cost of an image; of files that are not here, the published architecture is taken.

    Runs no code of a user's own.
    """
    assets = assets_of(spec)
    nfe, nfe_guide = (math.nan, math.nan) if spec.own_code else count_evaluations(spec)
    parts = parts_of(spec)
    networks, image_bytes = math.nan, math.nan
    if parts.network is not None and parts.guide is not None:
        networks = nfe * parts.network.flops + (nfe_guide * parts.guide.flops if nfe_guide else 0)
    detectors = [math.nan if each is None else each.flops for each in parts.detectors.values()]
    kept = detectors_of(spec.metrics.names)
    rows = [detector_of(name) for name in kept if name not in KEPT]
    features: float = sum(4 * ((row.dim or PUBLISHED_DIM) + row.num_logits) for row in rows)
    if parts.decoder is not None:
        main = network_architecture(spec.model.weights, assets)
        decoder = decoder_row(spec.model, shape_of(main), torch.device("cpu"))
        image_bytes = decoder.image_channels * (main.img_resolution * decoder.factor) ** 2
    if STATE in kept:
        features += math.nan if parts.network is None else _state_bytes(spec, assets)
    if PIXELS in kept:
        features += image_bytes
    decoding = math.nan if parts.decoder is None else parts.decoder.flops
    if kept == [STATE] and spec.samples == "none":
        decoding = 0.0
    return Cost(nfe, nfe_guide, networks, decoding, sum(detectors), features, image_bytes)


def _state_bytes(spec: RunSpec, assets: Assets) -> int:
    """Of a final state as it is kept."""
    shape = shape_of(network_architecture(spec.model.weights, assets))
    dtype = getattr(torch, spec.metrics.converged.states)
    return shape.channels * shape.resolution**2 * int(dtype.itemsize)


def for_cpus(spec: RunSpec) -> bool:
    """Whether the run's networks are small enough for a CPU, where no GPU is asked for."""
    network = parts_of(spec).network
    return spec.device != "cuda" and network is not None and network.flops <= CPU_FLOPS


def evaluation_flops(architecture: Architecture) -> int:
    """FLOPs of one evaluation of one image."""
    return network_footprint(architecture, "float32").flops


def network_footprint(architecture: Architecture, dtype: str) -> Footprint:
    """What one evaluation of one image takes. dtype: in which the raw network computes."""
    return _counted_network(architecture.class_name, json.dumps(dict(architecture.arguments)), dtype)


@functools.cache
def _counted_network(class_name: str, arguments: str, dtype: str) -> Footprint:
    architecture = Architecture(class_name, json.loads(arguments))
    side = architecture.img_resolution
    with torch.device("meta"):
        net = denoiser_around(make_network(architecture)).fold(getattr(torch, dtype))
        x = torch.empty(1, architecture.img_channels, side, side)
        classes = _any_class(architecture)
        return footprint(Sketch(net, lambda x: net(x, torch.tensor(1.0), classes)), x)


def _any_class(architecture: Architecture) -> torch.Tensor | None:
    """A condition that the network takes, on the default device: not each knows a class for "any"."""
    number = architecture.num_classes
    return torch.ones(1, number) if number else None


@functools.cache
def _sketched_decoder(row: Decoder, config: Path | None, shape: Shape, dtype: torch.dtype) -> Footprint:
    assert row.sketch is not None
    states = torch.empty(1, shape.channels, shape.resolution, shape.resolution, device="meta")
    return footprint(row.sketch(config, dtype), states)


@functools.cache
def _detector(name: str) -> Footprint | None:
    sketch = sketch_of(name)
    if sketch is None:
        return None
    row = detector_of(name)
    side = row.resolution or IMAGE_SIDE
    images = torch.empty(1, max(row.channels), side, side, dtype=torch.uint8, device="meta")
    return footprint(sketch, images)


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
    net = denoiser_around(make_network(main)).fold(getattr(torch, spec.network_dtype)).to(device)
    net.to(memory_format=torch.channels_last)
    if numerics_of(spec).published_attention:
        net.network.use_published_attention()
    side = main.img_resolution
    x = torch.zeros(spec.block_size, main.img_channels, side, side, device=device)
    classes = _any_class(main)
    classes = None if classes is None else classes.to(device)
    limit = CALIBRATION_S if device.type == "cuda" else 0.5
    start = last = time.perf_counter()
    best = float("inf")
    with torch.inference_mode(), memory_guard(spec), arithmetic(spec):
        while last - start < limit:
            net(x, torch.tensor(1.0, device=device), classes).sum().item()
            now = time.perf_counter()
            best, last = min(best, now - last), now
    return per_image * spec.block_size / best
