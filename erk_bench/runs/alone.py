"""Where a command computes that starts no workers."""

from __future__ import annotations

import torch

from erk_bench.runs.device import Place
from erk_bench.runs.launch import default_workers
from erk_bench.runs.needs import fetch
from erk_bench.spec import RunSpec


def alone(spec: RunSpec) -> Place:
    """The place of this one process, with the spec's networks fetched and all CPU cores at its disposal.

    On a CPU last bits depend on the number of cores, so what is kept by its bytes is not computed here.
    """
    place = Place.of(spec)
    fetch(spec, place.assets, features=False)
    if place.device.type == "cpu":
        torch.set_num_threads(default_workers(spec))
    return place
