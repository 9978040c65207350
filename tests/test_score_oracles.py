"""`score` on 1,000 small pictures beside what other programs print for the same folder and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from PIL import Image
from prdc import compute_prdc

import erk_bench
from erk_bench.digits.data import load_digits
from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, load_digits_detector
from erk_bench.evaluation.metrics import METRICS
from erk_bench.runs.records import Record
from tests import fidelity

COUNT = 1000

pytestmark = pytest.mark.slow
FAMILIES = ("fd", "kid", "is", "precision", "recall", "density", "coverage")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures in two folders: the first 1,000 digits, some of them blurred a little, and the others."""
    root = tmp_path_factory.mktemp("pictures")
    images = load_digits().images[:, 0].numpy()
    for number, image in enumerate(images):
        folder = root / ("mine" if number < COUNT else "real")
        folder.mkdir(exist_ok=True)
        if number % 3 == 0 and number < COUNT:
            image = np.clip(image.astype(int) + 12 * np.eye(8, dtype=int), 0, 255).astype(np.uint8)
        Image.fromarray(image).convert("RGB").save(folder / f"{number:05d}.png")
    return root / "mine", root / "real"


@pytest.fixture(scope="module")
def scored(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Record:
    metrics = [f"{family}@digits" for family in FAMILIES]
    out = str(tmp_path_factory.mktemp("out"))
    return erk_bench.score(*folders, metrics, kid_subset_size=500, out=out)


@pytest.fixture(scope="module")
def features(folders: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    """By the same network, of files read by Pillow: mine and the real ones."""
    package = Path(erk_bench.__file__).parent
    detect = load_digits_detector(package / DIGITS_WEIGHTS.removeprefix("package:"))
    found = []
    for folder in folders:
        pixels = [np.array(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
        stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        found.append(detect(stack)["features"].numpy())
    return found[0], found[1]


def value(record: Record, family: str) -> float:
    """Of the metric that this family and the digits network give."""
    return record.metrics[METRICS[f"{family}@digits"].name].value


def test_torch_fidelity_prints_the_same(scored: Record, folders: tuple[Path, Path]) -> None:
    fidelity.register()
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), feature_extractor=fidelity.NAME, cuda=False,
        fid=True, kid=True, isc=True, prc=True, kid_subset_size=500, verbose=False, cache=False,
        samples_find_deep=False,
    )  # fmt: skip
    for family, name, tolerance in (
        ("fd", "frechet_inception_distance", 1e-5),
        ("kid", "kernel_inception_distance_mean", 1e-5),
        ("is", "inception_score_mean", 1e-6),
        ("precision", "precision", 0.0),
        ("recall", "recall", 0.0),
    ):
        assert value(scored, family) == pytest.approx(theirs[name], rel=tolerance, abs=1e-6), family


def test_pytorch_fids_formula_gives_the_same(scored: Record, features: tuple[np.ndarray, np.ndarray]) -> None:
    """|mu1 - mu2|^2 + tr(s1 + s2 - 2 sqrtm(s1 s2)), with numpy and SciPy."""
    (m1, s1), (m2, s2) = [(each.mean(0), np.cov(each, rowvar=False)) for each in features]
    root = scipy.linalg.sqrtm(s1 @ s2).real
    assert value(scored, "fd") == pytest.approx(
        ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root), rel=1e-5
    )


def test_prdc_prints_the_same(scored: Record, features: tuple[np.ndarray, np.ndarray]) -> None:
    theirs = compute_prdc(real_features=features[1], fake_features=features[0], nearest_k=5)
    for family in ("density", "coverage"):
        assert value(scored, family) == pytest.approx(theirs[family], abs=3 / COUNT), family
