"""The digits detector and the table of detectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erk_bench.digits.data import load_digits
from erk_bench.errors import UserError
from erk_bench.evaluation import detectors
from erk_bench.evaluation.detectors import DETECTORS, REFERENCES, digits_detector, digits_reference
from erk_bench.networks.checkpoint import file_sha256
from erk_bench.storage.assets import locate


def changed_weights(folder: Path) -> Path:
    """A copy of the shipped weights with one value changed."""
    weights = load_file(locate(detectors.DIGITS_WEIGHTS))
    weights["hidden.bias"][0] += 0.5
    path = folder / "changed.safetensors"
    save_file(weights, path)
    return path


def test_shapes_types_and_names() -> None:
    extracted = digits_detector().extract(digits_reference()[:5])
    assert list(extracted) == ["features", "logits"]
    assert extracted["features"].shape == (5, 64)
    assert extracted["logits"].shape == (5, 10)
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in extracted.values())
    assert extracted["features"].abs().max() <= 1  # bounded: see digits/features.py


def test_logits_name_the_digit() -> None:
    digits = load_digits()
    found = digits_detector().extract(digits.images)["logits"].argmax(1)
    assert (found == digits.labels).double().mean() > 0.97


def test_rows_do_not_depend_on_the_batch() -> None:
    images = digits_reference()[:60]
    detector = digits_detector()
    whole = detector.extract(images)
    for size in (1, 7, 25):
        parts = [detector.extract(part) for part in images.split(size)]
        for name, value in whole.items():
            joined = torch.cat([part[name] for part in parts])
            assert (joined - value).abs().max() <= 1e-5, (name, size)


def test_same_images_give_the_same_bytes() -> None:
    images = digits_reference()[:20]
    first, second = (digits_detector().extract(images)["features"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(2, 1, 8, 8), r"got torch.float32 \[2, 1, 8, 8\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), r"got torch.int64 \[2, 1, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[2, 3, 8, 8\]"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), r"got torch.uint8 \[2, 1, 16, 16\]"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[1, 8, 8\]"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, told: str) -> None:
    with pytest.raises(UserError, match=r"uint8 images \[B, 1, 8, 8\].*" + told):
        digits_detector().extract(images)


def test_key_names_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = digits_detector()
    assert shipped.key == f"digits-{file_sha256(locate(detectors.DIGITS_WEIGHTS))[:8]}"
    assert digits_detector().key == shipped.key
    path = changed_weights(tmp_path)
    monkeypatch.setattr(detectors, "DIGITS_WEIGHTS", str(path))
    changed = digits_detector()
    assert changed.key != shipped.key
    images = digits_reference()[:5]
    gap = changed.extract(images)["features"] - shipped.extract(images)["features"]
    assert gap[:, 0].abs().max() > 1e-3
    assert gap[:, 1:].abs().max() <= 1e-6


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "DIGITS_WEIGHTS", str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="no file at"):
        digits_detector()


def test_references_suit_a_detector() -> None:
    assert set(REFERENCES) == {"digits"}
    images = REFERENCES["digits"]()
    assert images.dtype == torch.uint8
    assert images.shape == (1797, 1, 8, 8)
    assert images.max() == 255
    assert len(DETECTORS["digits"]("cpu").extract(images)["features"]) == 1797
