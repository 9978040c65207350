"""Protocols of the field: what each published evaluation measures, and what it fixes.

`protocol=NAME` of `erk-bench score`, or `metrics.protocol=NAME` of a run, measures as that program does. A
record says its protocol, and figures of different protocols never stand in one column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from erk_bench.base.errors import unknown_name
from erk_bench.evaluation.metrics import METRICS


@dataclass(frozen=True)
class FieldProtocol:
    """A row of PROTOCOLS. program: whose it is. metrics: what is measured, the headline first.

    resize, features, subsets, neighbours: what it fixes, in words. follows: slips and draws of the program
    that are followed, or cannot be. settings: fields of MetricsSpec that it fixes.
    """

    program: str
    metrics: tuple[str, ...]
    resize: str
    features: str
    subsets: str
    neighbours: str
    follows: str
    settings: Mapping[str, int] = field(default_factory=dict)


_DGM = ("kd", "precision_dgm", "recall_dgm", "density_dgm", "coverage_dgm", "fd_infinity_dgm")

PROTOCOLS: dict[str, FieldProtocol] = {
    "adm": FieldProtocol(
        "guided-diffusion's evaluator (ADM)",
        ("fid", "sfid", "is_adm@inception", "precision_adm@inception", "recall_adm@inception"),
        "TensorFlow 1's bilinear to 299",
        "Inception pool (2048) and the first 7 channels of mixed_6 (2023); Inception Score without bias",
        "Inception Score over splits of 5,000 in file order, the last may be shorter",
        "k = 3 on the pool, squared distances in float16, on the edge is inside",
        "statistics of the reference file for FID and sFID, its images for precision and recall",
    ),
    "edm2": FieldProtocol(
        "EDM2's calculate_metrics",
        ("fid", "fd_dinov2"),
        "TensorFlow 1's bilinear to 299; DINOv2: torch's bicubic, antialiased, to 224",
        "Inception pool (2048); DINOv2 ViT-L/14 class token (1024)",
        "none; 50,000 images, the minimum of three sets is published",
        "none",
        "nothing is random",
    ),
    "fidelity": FieldProtocol(
        "torch-fidelity's defaults",
        ("fid", "kid", "is", "precision", "recall"),
        "TensorFlow 1's bilinear to 299",
        "Inception pool (2048), logits without bias; VGG-16 for precision and recall",
        "KID: 100 subsets of 1,000, seed 2020; Inception Score: 10 shuffled splits, seed 2020",
        "k = 3 on VGG-16's features, on the edge is inside",
        "its seeds are followed",
        {"kid_subsets": 100, "kid_subset_size": 1000},
    ),
    "clean": FieldProtocol(
        "clean-fid",
        ("fd@inception_clean", "kid@inception_clean"),
        "PIL's bicubic, antialiased, of each channel as float, to 299, cut to 0..255",
        "Inception pool (2048), of torch-fidelity's weights; clean-fid's file is NVIDIA's TorchScript of the "
        "same TensorFlow graph, and is not read",
        "KID: 100 subsets of 1,000; clean-fid never seeds its draws, here the seed is 2020",
        "none",
        "KID is met up to its draw",
        {"kid_subsets": 100, "kid_subset_size": 1000},
    ),
    "dgm": FieldProtocol(
        "dgm-eval",
        ("fd_dinov2_pil", *(f"{name}@dinov2_pil" for name in _DGM)),
        "PIL's bicubic to 224, rounded to bytes",
        "DINOv2 ViT-L/14 class token (1024)",
        "KD: 100 subsets of 1,000; neighbours: as many images of both sets, 10,000 at most; FD∞: 15 sizes",
        "k = 5, a point on the edge is outside",
        "the program never seeds its draws; here they have seed 13579; --clean_resize is not followed",
    ),
    "fdr6": FieldProtocol(
        "diffusionbench-evals (FDr6)",
        ("fdr6",),
        "torch's bicubic, antialiased, to each encoder's size, not clamped",
        "Inception, ConvNeXt V2, DINOv2, MAE, SigLIP 2, CLIP",
        "none",
        "none",
        "float32, where the program has bfloat16 on a GPU",
    ),
}


class Followed(NamedTuple):
    """names: of the metrics to measure, settings: fields of MetricsSpec."""

    names: list[str]
    settings: dict[str, int]


def followed(protocol: str, names: Sequence[str], settings: Mapping[str, int]) -> Followed:
    """What is measured by a protocol: all of its metrics, or the named ones of them, with what it fixes.

    Raises UserError for an unknown protocol and for a metric that is not the protocol's.
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    row = PROTOCOLS[protocol]
    known = [METRICS[name].name for name in row.metrics]
    chosen = [METRICS[name].name for name in names]
    for name in chosen:
        if name not in known:
            raise unknown_name(f"metric of protocol={protocol}", name, known)
    return Followed(list(dict.fromkeys(chosen or known)), {**settings, **row.settings})


def protocols_table() -> str:
    """What each protocol fixes, as Markdown."""
    lines = ["| protocol | whose | metrics | resize | features | subsets | neighbours | draws and slips |"]
    lines.append("|---" * 8 + "|")
    for name, row in PROTOCOLS.items():
        metrics = ", ".join(f"`{metric}`" for metric in row.metrics)
        cells = (row.program, metrics, row.resize, row.features, row.subsets, row.neighbours, row.follows)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)
