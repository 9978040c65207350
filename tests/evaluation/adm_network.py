"""The small network that ADM's evaluator was run with in place of Inception; see tests/data/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from erk_bench.evaluation import detectors
from erk_bench.evaluation.extract import Detector, Extract

GOLDEN = load_file(Path(__file__).parent.parent / "data" / "adm_end_to_end.safetensors")
CALLS: list[int] = []  # images of each pass


def load(weights: Path | None, device: torch.device | str) -> Extract:
    net = {name: value for name, value in GOLDEN.items() if name.startswith("net.")}

    def extract(images: Tensor) -> dict[str, Tensor]:
        CALLS.append(len(images))
        z = images.float() / 128 - 1
        pooled = F.avg_pool2d(z, 6).permute(0, 2, 3, 1).flatten(1)
        pool = (pooled @ net["net.A"] + net["net.a0"]).relu()
        spatial = (F.avg_pool2d(z, 8).permute(0, 2, 3, 1) @ net["net.B"] + net["net.b0"]).relu()
        return {
            "features": pool,
            "logits": pool @ net["net.W"],
            "inception_spatial": spatial[..., :7].flatten(1),
        }

    return extract


@contextmanager
def in_place_of_inception() -> Iterator[None]:
    """The detectors inception and inception_spatial are views of this network."""
    place = f"{__name__}:load"
    rows = {
        "inception": Detector("Inception", None, place, 40, 30),
        "inception_spatial": Detector("Inception (spatial)", None, place, 63, 0, view_of="inception"),
    }
    detectors._loaded.cache_clear()
    CALLS.clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, row in rows.items():
            patch.setitem(detectors.DETECTORS, name, row)
        yield
    detectors._loaded.cache_clear()
