"""Memory that a run needs: of a GPU and of its host, from counted shapes."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import torch

from erk_bench.base.footprint import NOTHING, Footprint
from erk_bench.runs.cost import estimate, parts_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.loaded import network_architecture, shape_of
from erk_bench.runs.numerics import Numerics, numerics_of
from erk_bench.runs.writer import PENDING
from erk_bench.spec import RunSpec

GB = 1e9
# Of a GPU: its context, libraries, and the workspace of kernels. Assumed, not counted.
RESERVE = 2 * GB
# Of a host: Python with torch, diffusers, timm and scipy, as measured on Linux; CUDA takes more.
IMPORTS = 0.9 * GB
STATES = 10  # of a sampler alive beside a network's own: noise, points, slopes, results


class Memory(NamedTuple):
    """Bytes. weights: of all networks, which stay on the device. sampling, decoding, features: of one image,
    at the moment when each stage takes most; decoding does at most decoded_at_once images. host: of a rank,
    while it loads the largest file.
    """

    weights: float
    sampling: float
    decoding: float
    features: float
    decoded_at_once: int
    host: float

    def stages(self, block_size: int) -> dict[str, float]:
        """What each stage takes beside the weights."""
        return {
            "sampling": self.sampling * block_size,
            "decoding": self.decoding * min(block_size, self.decoded_at_once),
            "features": self.features * block_size,
        }

    def of_gpu(self, block_size: int) -> float:
        """What a GPU needs."""
        return RESERVE + self.weights + max(self.stages(block_size).values())

    def largest_block(self, capacity: float) -> int:
        """The largest block_size that fits into a GPU of so many bytes; 0 where none does."""
        return bisect.bisect_right(range(1, 2**20), capacity, key=self.of_gpu)


def memory_of(spec: RunSpec) -> Memory | None:
    """What a run needs; None where code of a user's own decides it. Runs no code of a user's own."""
    parts = parts_of(spec)
    found = [parts.network, parts.guide, parts.decoder, *parts.detectors.values()]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    network, guide, decoder, *detectors = known
    if len(spec.networks) == 1:
        guide = NOTHING._replace(activations=guide.activations)  # the same network again
    loads = [_file_bytes(spec, each) + each.weights for each in (network, guide)]
    loads += [2 * each.weights for each in (decoder, *detectors)]
    numerics = numerics_of(spec)
    copies = input_copies(numerics)
    decoder_copies = copies if numerics.vae_dtype == torch.float32 else 0
    image_bytes = estimate(spec).image_bytes
    waiting = 0 if spec.samples == "none" else PENDING * spec.block_size * image_bytes
    return Memory(
        weights=sum(each.weights for each in (network, guide, decoder, *detectors)),
        sampling=max(network.activations, guide.activations) + STATES * state_bytes(spec),
        decoding=decoder.activations + decoder_copies * decoder.largest_input,
        features=max((each.activations + copies * each.largest_input for each in detectors), default=0)
        + image_bytes,
        decoded_at_once=numerics_of(spec).vae_batch,
        host=IMPORTS + max(loads) + waiting,
    )


def input_copies(numerics: Numerics) -> int:
    """How many copies of its input a float32 convolution of the decoder or a detector takes on a GPU.

    As measured on an H100, to 1.2 GB (results/bench/gpu-nvidia-h100-80gb-hbm3/page.md, rates).
    """
    return 1 if numerics.tf32_convolutions else 2


def state_bytes(spec: RunSpec) -> int:
    """Of one state of one image, in the sampler's dtype."""
    shape = shape_of(network_architecture(spec.model.weights, assets_of(spec)))
    return shape.channels * shape.resolution**2 * getattr(torch, spec.dtype).itemsize


def _file_bytes(spec: RunSpec, network: Footprint) -> float:
    """Of a network's file, which holds float16 as published."""
    return network.weights / (2 if spec.network_dtype == "float32" else 1)
