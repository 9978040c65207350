"""erk-bench: sampling, guidance and evaluation of diffusion models, with ERK-Guid (arXiv 2603.03692)."""

from erk_bench.evaluation.frechet import frechet_distance
from erk_bench.presets import load_denoiser
from erk_bench.sampling.grid import sample_grid
from erk_bench.sampling.sample import draw, sample
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
