"""erk-bench: sampling, guidance and evaluation of diffusion models, with ERK-Guid (arXiv 2603.03692)."""

from importlib import import_module
from typing import TYPE_CHECKING

import erk_bench.base.platforms  # noqa: F401 - first: it refuses systems on which other imports fail

if TYPE_CHECKING:
    from erk_bench.evaluation.frechet import frechet_distance
    from erk_bench.networks.presets import load_denoiser
    from erk_bench.sampling.sample import draw, sample
    from erk_bench.sampling.shared import sample_grid
    from erk_bench.sampling.steps import Node, Step

__version__ = "0.1.0"
__all__ = [
    "Node",
    "Step",
    "__version__",
    "draw",
    "frechet_distance",
    "load_denoiser",
    "sample",
    "sample_grid",
]

# Imported when they are asked for: the command must hear signals before torch is there, which takes seconds.
_HOMES = {
    "Node": "sampling.steps",
    "Step": "sampling.steps",
    "draw": "sampling.sample",
    "frechet_distance": "evaluation.frechet",
    "load_denoiser": "networks.presets",
    "sample": "sampling.sample",
    "sample_grid": "sampling.shared",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'erk_bench' has no attribute '{name}'")
    return getattr(import_module(f"erk_bench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
