"""erk-bench: sampling, guidance and evaluation of diffusion models, with ERK-Guid (arXiv 2603.03692)."""

from importlib import import_module
from typing import TYPE_CHECKING

import erk_bench.base.platforms  # noqa: F401 - first: it refuses systems on which other imports fail

if TYPE_CHECKING:
    from erk_bench.evaluation.frechet import frechet_distance
    from erk_bench.networks.flow import FlowModel
    from erk_bench.networks.presets import load_denoiser
    from erk_bench.runs.record_folder import load_records
    from erk_bench.sampling.sample import draw, sample
    from erk_bench.sampling.shared import sample_grid
    from erk_bench.sampling.steps import Node, Step
    from erk_bench.studies.score_sets import score

__version__ = "0.1.0"
__all__ = [
    "FlowModel",
    "Node",
    "Step",
    "__version__",
    "draw",
    "frechet_distance",
    "load_denoiser",
    "load_records",
    "sample",
    "sample_grid",
    "score",
]

# Importing torch takes seconds, which help and typing errors need not wait for.
_MODULES = {
    "FlowModel": "erk_bench.networks.flow",
    "Node": "erk_bench.sampling.steps",
    "Step": "erk_bench.sampling.steps",
    "draw": "erk_bench.sampling.sample",
    "frechet_distance": "erk_bench.evaluation.frechet",
    "load_denoiser": "erk_bench.networks.presets",
    "load_records": "erk_bench.runs.record_folder",
    "sample": "erk_bench.sampling.sample",
    "sample_grid": "erk_bench.sampling.shared",
    "score": "erk_bench.studies.score_sets",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A public name, from its module at first use."""
        if name not in _MODULES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        globals()[name] = getattr(import_module(_MODULES[name]), name)
        return globals()[name]


def __dir__() -> list[str]:
    return __all__
