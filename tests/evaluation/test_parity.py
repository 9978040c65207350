"""From the same image files: our detectors and metrics against torch-fidelity's own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image

from erk_bench.evaluation.extract import Extract
from erk_bench.evaluation.inception import load_inception, load_vgg16
from erk_bench.evaluation.measured import Extracted, Measured
from erk_bench.evaluation.metrics import METRICS, measure
from erk_bench.evaluation.reference_files import Real
from erk_bench.spec import MetricsSpec
from tests.assets import write_inception, write_vgg16


def write_images(folder: Path, count: int, seed: int) -> torch.Tensor:
    """Smooth random pictures of different brightness as PNG files; returns them as uint8 NCHW."""
    folder.mkdir()
    images = []
    for index in range(count):
        random = np.random.default_rng([seed, index])
        small = random.integers(0, 30 + 220 * index // count, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:03d}.png")
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(images)


def both(
    tmp_path: Path, counts: tuple[int, int], names: tuple[str, ...], extract: Extract, **options: Any
) -> tuple[dict[str, Measured], dict[str, float]]:
    """Metrics of so many generated and real images, by us and by torch-fidelity."""
    fake = write_images(tmp_path / "fake", counts[0], 1)
    real = write_images(tmp_path / "real", counts[1], 2)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "fake"), input2=str(tmp_path / "real"), cuda=False, cache=False, verbose=False,
        save_cpu_ram=True, batch_size=64, kid_subset_size=10, kid_subsets=20, **options,
    )  # fmt: skip
    spec = MetricsSpec(
        names=names, reference="", num_groups=counts[0] // 2, kid_subsets=20, kid_subset_size=10
    )
    found = extract(fake)
    detector = METRICS[names[0]].detector
    images = {detector: Extracted(found["features"], found.get("logits"))}
    return measure(spec, images, {detector: Real(None, extract(real)["features"])}), theirs


@pytest.mark.slow
def test_inception_from_images_to_numbers(tmp_path: Path) -> None:
    weights = write_inception(tmp_path / "inception.pth")
    ours, theirs = both(
        tmp_path, (26, 14), ("fid", "kid", "is"), load_inception(weights, "cpu"), isc=True, fid=True,
        kid=True, feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    # Fewer images than dimensions: eigenvalues that should be zero are rounding errors, whose square roots
    # torch-fidelity adds up. With more images the two agree to 1e-9 (test_frechet.py).
    assert ours["fid"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert ours["kid"].value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours["is"].value == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


@pytest.mark.slow
def test_vgg16_from_images_to_numbers(tmp_path: Path) -> None:
    weights = write_vgg16(tmp_path / "vgg16.pth")
    ours, theirs = both(
        tmp_path, (18, 9), ("precision", "recall"), load_vgg16(weights, "cpu"), prc=True,
        feature_extractor="vgg16", feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    for name in ("precision", "recall"):
        assert ours[name].value == pytest.approx(theirs[name], rel=1e-6)
        assert 0 < ours[name].value < 1  # neither all nor none
