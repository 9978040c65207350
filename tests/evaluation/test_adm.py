"""ADM's evaluator end to end: its reference file against its samples, as its own program printed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.evaluation.detectors import detector_key, extract_all, load_detector
from erk_bench.evaluation.families import Extracted
from erk_bench.evaluation.metrics import measure
from erk_bench.evaluation.reference import load_real
from erk_bench.evaluation.reference_formats import read_images
from erk_bench.spec import MetricsSpec

from .adm_network import CALLS, GOLDEN, in_place_of_inception

DATA = Path(__file__).parent.parent / "data"
PRINTED = json.loads((DATA / "adm_end_to_end.json").read_text())["end_to_end"]
REFERENCE, SAMPLES = DATA / "adm_reference_tiny.npz", DATA / "adm_samples_tiny.npz"
NAMES = ("fd@inception", "fd@inception_spatial")


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


@pytest.mark.parametrize(
    ("reference", "case"), [(REFERENCE, "reference_with_statistics"), (SAMPLES, "samples_as_reference")]
)
def test_distances(reference: Path, case: str) -> None:
    """Against the file's statistics where it has them, else against those of its images."""
    spec = MetricsSpec(names=NAMES, reference=str(reference), num_groups=5)
    real = load_real(spec, Assets.from_environment(), "cpu")
    found = measure(spec, extracted(SAMPLES, ("inception", "inception_spatial")), real)
    for name, printed in (("fd@inception", "fid"), ("fd@inception_spatial", "sfid")):
        assert abs(found[name].value - PRINTED[case][printed]) <= 1e-5 * (1 + abs(PRINTED[case][printed]))


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
