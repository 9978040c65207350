"""The digits detector and the table of detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from erk_bench.base.assets import Assets, LockFile
from erk_bench.base.errors import UserError
from erk_bench.base.files import file_sha256
from erk_bench.digits.data import load_digits
from erk_bench.evaluation.detectors import (
    DETECTORS,
    DIGITS_WEIGHTS,
    detector_key,
    load_detector,
    load_digits_detector,
)
from erk_bench.evaluation.extract import Extract, rgb_images
from erk_bench.evaluation.reference import digits_reference

ASSETS = Assets.from_environment()


def digits_detector() -> Extract:
    return load_detector("digits", ASSETS, "cpu")


def changed_weights(folder: Path) -> Path:
    """A copy of the shipped weights with one value changed."""
    weights = load_file(ASSETS.locate(DIGITS_WEIGHTS))
    weights["hidden.bias"][0] += 0.5
    path = folder / "changed.safetensors"
    save_file(weights, path)
    return path


def test_shapes_types_and_names() -> None:
    extracted = digits_detector()(digits_reference()[:5])
    assert list(extracted) == ["features", "logits"]
    assert extracted["features"].shape == (5, 64)
    assert extracted["logits"].shape == (5, 10)
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in extracted.values())
    assert extracted["features"].abs().max() <= 1  # bounded: see digits/features.py


def test_logits_name_the_digit() -> None:
    digits = load_digits()
    found = digits_detector()(digits.images)["logits"].argmax(1)
    assert (found == digits.labels).double().mean() > 0.97


def test_rows_do_not_depend_on_the_batch() -> None:
    images = digits_reference()[:60]
    detector = digits_detector()
    whole = detector(images)
    for size in (1, 7, 25):
        parts = [detector(part) for part in images.split(size)]
        for name, value in whole.items():
            joined = torch.cat([part[name] for part in parts])
            assert (joined - value).abs().max() <= 1e-5, (name, size)


def test_same_images_give_the_same_bytes() -> None:
    images = digits_reference()[:20]
    first, second = (digits_detector()(images)["features"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(2, 1, 8, 8), r"got torch.float32 \[2, 1, 8, 8\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), r"got torch.int64 \[2, 1, 8, 8\]"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[2, 2, 8, 8\]"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), r"got torch.uint8 \[2, 1, 16, 16\]"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[1, 8, 8\]"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, told: str) -> None:
    with pytest.raises(UserError, match=r"uint8 images \[B, 1, 8, 8\].*" + told):
        digits_detector()(images)


def test_digits_of_three_equal_channels_are_grey() -> None:
    images = digits_reference()[:20]
    first, second = (digits_detector()(each) for each in (images, images.repeat(1, 3, 1, 1)))
    assert torch.equal(first["features"], second["features"])
    coloured = images.repeat(1, 3, 1, 1)
    coloured[3, 2, 4, 4] += 1
    with pytest.raises(UserError, match="the digits detector takes grey images, but the channels differ"):
        digits_detector()(coloured)


def test_grey_images_get_three_equal_channels() -> None:
    """As PIL's convert("RGB") does, which the published tools call."""
    grey = torch.randint(0, 256, (3, 1, 9, 7), dtype=torch.uint8)
    found = rgb_images(grey, "inception")
    for image, one in zip(found, grey, strict=True):
        expected = np.asarray(Image.fromarray(one[0].numpy()).convert("RGB"))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    colour = torch.randint(0, 256, (3, 3, 9, 7), dtype=torch.uint8)
    assert rgb_images(colour, "inception").equal(colour)
    for other in (grey.float(), grey[:, 0], torch.zeros(1, 2, 8, 8, dtype=torch.uint8)):
        with pytest.raises(UserError, match="the vgg16 detector takes uint8 images"):
            rgb_images(other, "vgg16")


def test_key_names_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = ASSETS.locate(DIGITS_WEIGHTS)
    assert detector_key("digits", ASSETS) == f"digits-{file_sha256(shipped)[:8]}"
    path = changed_weights(tmp_path)
    row = DETECTORS["digits"]
    monkeypatch.setitem(DETECTORS, "digits", row._replace(weights=str(path)))
    assert detector_key("digits", ASSETS) == f"digits-{file_sha256(path)[:8]}"
    images = digits_reference()[:5]
    gap = load_digits_detector(path)(images)["features"] - load_digits_detector(shipped)(images)["features"]
    assert gap[:, 0].abs().max() > 1e-3
    assert gap[:, 1:].abs().max() <= 1e-6


def test_key_is_known_from_the_lock_file_alone(tmp_path: Path) -> None:
    """Which features exist can be told on a machine without the weights."""
    assets = Assets(tmp_path / "cache", tmp_path / "lock", offline=True)
    with pytest.raises(UserError, match="is not in the cache; run 'erk-bench fetch'"):
        detector_key("inception", assets)
    LockFile(assets.lock).record(str(DETECTORS["inception"].weights), "abcd" * 16)
    assert detector_key("inception", assets) == "inception-abcdabcd"


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    for name, row in DETECTORS.items():
        if name not in ("digits", "cifar16", "cifar32", "lite0"):  # shipped, or of a Python package
            with pytest.raises(UserError, match="is not in the cache, and offline=true.*erk-bench fetch"):
                load_detector(name, Assets(tmp_path, tmp_path / "lock", offline=True), "cpu")
            assert str(row.weights).partition(":")[0] in (
                "torch_fidelity",
                "pytorch",
                "dinov2",
                "huggingface",
            )


def test_detectors_of_other_numbers_have_other_names() -> None:
    """dinov2_torch and dinov2_pil share their weights, never their features."""
    assert DETECTORS["dinov2_torch"].weights == DETECTORS["dinov2_pil"].weights
    assert DETECTORS["dinov2_torch"].load != DETECTORS["dinov2_pil"].load
