"""From the same image files: our detectors and metrics against torch-fidelity's own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image

from erk_bench.evaluation.inception import load_inception, load_vgg16
from erk_bench.evaluation.metrics import Extracted, measure
from erk_bench.evaluation.references import Real
from erk_bench.spec import MetricsSpec
from tests.assets import write_inception, write_vgg16

NUM_FAKE, NUM_REAL = 26, 14


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


@pytest.mark.slow
def test_from_images_to_numbers(tmp_path: Path) -> None:
    fake = write_images(tmp_path / "fake", NUM_FAKE, 1)
    real = write_images(tmp_path / "real", NUM_REAL, 2)
    inception = write_inception(tmp_path / "inception.pth")
    vgg16 = write_vgg16(tmp_path / "vgg16.pth")
    common = {
        "input1": str(tmp_path / "fake"), "input2": str(tmp_path / "real"), "cuda": False, "cache": False,
        "verbose": False, "save_cpu_ram": True, "batch_size": 64, "kid_subset_size": 10, "kid_subsets": 20,
    }  # fmt: skip
    theirs = torch_fidelity.calculate_metrics(
        **common, isc=True, fid=True, kid=True, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception),
    )  # fmt: skip
    theirs |= torch_fidelity.calculate_metrics(
        **common, prc=True, feature_extractor="vgg16", feature_extractor_weights_path=str(vgg16)
    )

    spec = MetricsSpec(
        names=("fid", "kid", "is", "precision", "recall"), reference="", num_groups=13, kid_subsets=20,
        kid_subset_size=10,
    )  # fmt: skip
    images, reals = {}, {}
    for name, extract in (
        ("inception", load_inception(inception, "cpu")),
        ("vgg16", load_vgg16(vgg16, "cpu")),
    ):
        found = extract(fake)
        images[name] = Extracted(found["features"], found.get("logits"))
        reals[name] = Real(None, extract(real)["features"])
    ours = measure(spec, images, reals)
    # Fewer images than dimensions: eigenvalues that should be zero are rounding errors, whose square roots
    # torch-fidelity adds up. With more images the two agree to 1e-9 (test_frechet.py).
    assert ours["fid"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    for metric, name in (
        ("kid", "kernel_inception_distance_mean"),
        ("is", "inception_score_mean"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert ours[metric].value == pytest.approx(theirs[name], rel=1e-6), metric
    assert 0 < ours["precision"].value < 1 and 0 < ours["recall"].value < 1  # neither all nor none
