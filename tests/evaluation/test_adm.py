"""ADM's evaluator end to end: its reference file against its samples, as its own program printed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.evaluation.detectors import detector_key, extract_all, load_detector
from erk_bench.evaluation.measured import Extracted
from erk_bench.evaluation.metrics import measure
from erk_bench.evaluation.protocols import PROTOCOLS
from erk_bench.evaluation.reference import load_real
from erk_bench.evaluation.reference_formats import read_images
from erk_bench.spec import MetricsSpec

from .adm_network import CALLS, GOLDEN, in_place_of_inception

DATA = Path(__file__).parent.parent / "data"
PRINTED = json.loads((DATA / "adm_end_to_end.json").read_text())["end_to_end"]
REFERENCE, SAMPLES = DATA / "adm_reference_tiny.npz", DATA / "adm_samples_tiny.npz"
NAMES = ("fid", "sfid")
PRECISION = 0.01  # sums of float16 depend on the library


@pytest.fixture(autouse=True)
def tiny_network() -> Iterator[None]:
    with in_place_of_inception():
        yield


def extracted(path: Path, names: tuple[str, ...]) -> dict[str, Extracted]:
    (images,) = read_images(path, 1000)
    found = extract_all(dict.fromkeys(names), Assets.from_environment(), "cpu", images)
    return {name: Extracted(each["features"], each.get("logits")) for name, each in found.items()}


def test_activations() -> None:
    for name, path in (("ref", REFERENCE), ("samples", SAMPLES)):
        found = extracted(path, ("inception", "inception_spatial"))
        assert (found["inception"].features - GOLDEN[f"{name}.pool"]).abs().max() <= 1e-5
        assert (found["inception_spatial"].features - GOLDEN[f"{name}.spatial"]).abs().max() <= 1e-5
        assert found["inception_spatial"].logits is None


@pytest.fixture
def without_statistics(tmp_path: Path) -> Path:
    """The reference's images alone."""
    path = tmp_path / "images.npz"
    np.savez(path, arr_0=np.load(REFERENCE)["arr_0"])
    return path


def assert_printed(values: dict[str, float], case: str) -> None:
    printed = PRINTED[case]
    for name, expected in (("fid", "fid"), ("sfid", "sfid"), ("is_adm@inception", "inception_score")):
        assert abs(values[name] - printed[expected]) <= 1e-5 * (1 + abs(printed[expected]))
    for name in ("precision", "recall"):
        assert abs(values[f"{name}_adm@inception"] - printed[name]) <= PRECISION


@pytest.mark.parametrize(
    "case", ["reference_with_statistics", "samples_as_reference", "reference_without_statistics"]
)
def test_all_metrics(case: str, without_statistics: Path) -> None:
    """Against the file's statistics where it has them, else against those of its images."""
    reference = {"r": REFERENCE, "s": SAMPLES}[case[0]] if "without" not in case else without_statistics
    spec = MetricsSpec(names=PROTOCOLS["adm"].metrics, reference=str(reference), num_groups=5)
    real = load_real(spec, Assets.from_environment(), "cpu")
    found = measure(spec, extracted(SAMPLES, ("inception", "inception_spatial")), real)
    assert_printed({name: item.value for name, item in found.items()}, case)


@pytest.mark.parametrize("case", ["reference_with_statistics", "reference_without_statistics"])
def test_score_by_the_protocol(case: str, without_statistics: Path) -> None:
    """The images of a file without statistics are a set like any other."""
    reference = REFERENCE if case == "reference_with_statistics" else without_statistics
    record = erk_bench.score(SAMPLES, reference, protocol="adm", num_groups=5, out="runs", device="cpu")
    assert record.spec["metrics"]["protocol"] == "adm" and record.num_images == 150
    assert set(record.metrics) == set(PROTOCOLS["adm"].metrics)
    assert_printed({name: item.value for name, item in record.metrics.items()}, case)
    assert sum(CALLS) == 150 + 120


def test_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["num_groups=5", "out=runs", "device=cpu", "workers=1", "protocol=adm"]
    assert main(["score", str(SAMPLES), str(REFERENCE), *words]) == 0
    printed = capsys.readouterr().out
    assert "sFID" in printed and "protocol: adm" in printed


def test_a_reference_of_another_resolution_or_too_small(tmp_path: Path) -> None:
    arrays = dict(np.load(REFERENCE))
    np.savez(tmp_path / "large.npz", **{**arrays, "arr_0": np.zeros((120, 48, 48, 3), np.uint8)})
    np.savez(tmp_path / "few.npz", **{**arrays, "arr_0": arrays["arr_0"][:2]})
    for name, message in (("large", "48x48 pixels"), ("few", "the reference has 2 images, too few")):
        with pytest.raises(UserError, match=message):
            erk_bench.score(SAMPLES, tmp_path / f"{name}.npz", protocol="adm", num_groups=5, out="runs")
    assert CALLS == []  # told before any image went through the network


def test_statistics_of_the_file_and_features_of_its_images() -> None:
    """FID is against the whole training set, precision and recall against the images that are there."""
    spec = MetricsSpec(names=(*NAMES, "precision@inception"), reference=str(REFERENCE), num_groups=5)
    real = load_real(spec, Assets.from_environment(), "cpu")["inception"]
    assert real.stats is not None and real.features is not None
    assert (real.features - GOLDEN["ref.pool"]).abs().max() <= 1e-5
    assert (real.stats.mean - real.features.double().mean(0)).abs().max() > 1e-2


def test_images_are_extracted_once_and_kept() -> None:
    spec = MetricsSpec(names=("precision@inception",), reference=str(REFERENCE), num_groups=5)
    assets = Assets.from_environment()
    counted = load_real(spec, assets)["inception"].features
    assert counted is not None and counted.is_meta and len(counted) == 120
    assert CALLS == []
    first = load_real(spec, assets, "cpu")["inception"].features
    assert sum(CALLS) == 120
    second = load_real(spec, assets, "cpu")["inception"].features
    assert sum(CALLS) == 120 and first is not None and second is not None and torch.equal(first, second)
    (kept,) = assets.private.glob("reference-*")
    kept.write_bytes(kept.read_bytes()[:50])
    third = load_real(spec, assets, "cpu")["inception"].features
    assert sum(CALLS) == 240 and third is not None and torch.equal(first, third)


def test_two_layers_from_one_pass() -> None:
    (images,) = read_images(SAMPLES, 1000)
    assets = Assets.from_environment()
    both = extract_all({"inception": None, "inception_spatial": None}, assets, "cpu", images)
    assert CALLS == [150]
    assert list(both["inception"]) == ["features", "logits"] and list(both["inception_spatial"]) == [
        "features"
    ]
    alone = load_detector("inception_spatial", assets, "cpu")(images)
    assert torch.equal(alone["features"], both["inception_spatial"]["features"])
    assert list(load_detector("inception", assets, "cpu")(images)) == ["features", "logits"]
    assert detector_key("inception", assets) != detector_key("inception_spatial", assets)


def test_a_reference_of_both_layers_takes_one_pass(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", arr_0=np.load(REFERENCE)["arr_0"])
    words = [
        "to=both.safetensors",
        "detectors=inception,inception_spatial",
        "resolution=24",
        "keep_features=true",
    ]
    assert main(["reference", f"source={tmp_path / 'images.npz'}", "device=cpu", *words]) == 0
    assert sum(CALLS) == 120
    spec = MetricsSpec(names=NAMES, reference="both.safetensors", num_groups=5)
    real = load_real(spec, Assets.from_environment(), "cpu")
    for detector, name in (("inception", "pool"), ("inception_spatial", "spatial")):
        features = real[detector].features
        assert features is not None and (features - GOLDEN[f"ref.{name}"]).abs().max() <= 1e-5
