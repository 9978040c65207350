"""What is drawn of a set: a sample, typical and odd images, classes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench.cli import main
from erk_bench.digits.data import load_digits
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.reference_files import Real
from erk_bench.evaluation.typical import NEIGHBOURS, class_distances, typicality


def test_the_nearest_real_images_are_those_of_a_full_table() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 5, generator=generator), torch.randn(4100, 5, generator=generator)
    found = typicality(x, Real(None, y))
    table = torch.cdist(x, y)
    expected = table.topk(NEIGHBOURS, largest=False)
    assert found.neighbours is not None and torch.equal(found.neighbours, expected.indices)
    assert torch.allclose(found.distances, expected.values.mean(1), atol=1e-5)


def test_with_statistics_only_it_is_the_mahalanobis_distance() -> None:
    """Also where the covariance is singular: directions without variance do not count."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(500, 4, generator=generator) * torch.tensor([1.0, 2.0, 3.0, 0.0])
    stats = FeatureSums.of(y).stats()
    x = torch.randn(7, 4, generator=generator)
    gap = (x.double() - stats.mean)[:, :3]
    expected = torch.einsum("ni,ij,nj->n", gap, stats.covariance[:3, :3].inverse(), gap).sqrt()
    found = typicality(x, Real(stats))
    assert found.neighbours is None and torch.allclose(found.distances, expected.float(), atol=1e-5)


def test_classes_are_compared_with_their_own() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(3).repeat_interleave(40)
    real = torch.randn(120, 3, generator=generator) + 10 * labels[:, None]
    mine = torch.randn(120, 3, generator=generator) + 10 * labels[:, None]
    mine[labels == 1] += 4
    found = class_distances(mine, labels, real, labels)
    assert max(found, key=lambda label: found[label].value) == 1
    assert found[1].value > 30 and found[0].value < 3 and found[2].value < 3
    few = torch.cat([labels[:110], labels[110:] + 1])  # ten images of a fourth class
    assert set(class_distances(mine, few, real, labels)) == {0, 1, 2}


def save(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / f"digit {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(folder / f"digit {label}" / f"{index:05d}.png")


def test_pictures_of_a_set_with_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An odd image stands first among the least typical; a broken class is the farthest."""
    digits = load_digits()
    images, labels = digits.images[:, 0].numpy(), digits.labels.numpy()
    chosen = labels < 3
    images, labels = images[chosen][:240], labels[chosen][:240]
    save(tmp_path / "real", images[120:], labels[120:])
    broken = images[:120].copy()
    broken[labels[:120] == 2] = 255 - broken[labels[:120] == 2]
    save(tmp_path / "mine", broken, labels[:120])
    command = ["score", "mine", "real", "metrics=fd_digits", "num_groups=10", "workers=1", "pictures=look"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(command) == 0
    rows = list(csv.DictReader((tmp_path / "look" / "mine-classes.csv").open()))
    assert rows[0]["class_name"] == "digit 2" and len(rows) == 3
    for name in ("sample", "typical", "classes"):
        with Image.open(tmp_path / "look" / f"mine-{name}.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 5
    assert "look/mine-typical.png" in capsys.readouterr().out
