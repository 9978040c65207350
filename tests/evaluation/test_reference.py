"""Which reference serves which metrics, and what is said where it does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.files import file_sha256
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.reference import (
    REFERENCES,
    check_resolution,
    load_real,
    named_files,
    reference_facts,
)
from erk_bench.evaluation.reference_files import Real, write_reference
from erk_bench.spec import MetricsSpec

ASSETS = Assets.from_environment()


def digits_metrics(**changes: object) -> MetricsSpec:
    return dataclasses.replace(run_spec([]).metrics, **changes)  # type: ignore[arg-type]  # fields by name


def written(
    path: Path, *, features: bool, detector: str = "digits", dim: int = 64, resolution: int = 8
) -> Path:
    """A reference of random features."""
    values = torch.randn(300, dim, generator=torch.Generator().manual_seed(dim))
    real = Real(FeatureSums.of(values).stats(), values if features else None)
    write_reference(path, {detector: real}, {"resolution": resolution})
    return path


def test_shipped_digits() -> None:
    images = REFERENCES["digits"]()
    assert images.dtype == torch.uint8 and images.shape == (1797, 1, 8, 8) and images.max() == 255
    real = load_real(digits_metrics(), ASSETS)["digits"]
    assert real.features is not None and real.features.shape == (1797, 64)
    facts = reference_facts(digits_metrics(), ASSETS)
    assert facts["name"] == "digits" and len(facts["sha256"]) == 64


def test_statistics_and_features_of_different_files(tmp_path: Path) -> None:
    """FID's statistics are of the training set, precision's features of the validation set."""
    stats = written(tmp_path / "stats.safetensors", features=False)
    features = written(tmp_path / "features.safetensors", features=True)
    spec = digits_metrics(reference=str(stats), real_features=str(features))
    real = load_real(spec, ASSETS)["digits"]
    assert real.stats is not None and real.features is not None and real.features.shape == (300, 64)
    facts = reference_facts(spec, ASSETS)
    assert facts["sha256"] == file_sha256(stats) and facts["features_sha256"] == file_sha256(features)


def test_statistics_alone_serve_the_distance_only(tmp_path: Path) -> None:
    stats = written(tmp_path / "stats.safetensors", features=False)
    assert load_real(digits_metrics(names=("fd_digits", "is_digits"), reference=str(stats)), ASSETS)
    for name in ("precision_digits", "recall_digits", "kid_digits"):
        with pytest.raises(
            UserError, match=f"metric '{name}' needs features.*keep_features=true.*leave '{name}'"
        ):
            load_real(digits_metrics(names=(name,), reference=str(stats)), ASSETS)


def test_reference_of_another_detector(tmp_path: Path) -> None:
    file = written(tmp_path / "other.safetensors", features=True, detector="vgg16", dim=4096)
    with pytest.raises(
        UserError, match="metric 'fd_digits' needs statistics of real images by detector 'digits'.*vgg16 only"
    ):
        load_real(digits_metrics(names=("fd_digits",), reference=str(file)), ASSETS)
    assert load_real(digits_metrics(names=("is_digits",), reference=str(file)), ASSETS)


def test_reference_of_another_dimension(tmp_path: Path) -> None:
    file = written(tmp_path / "narrow.safetensors", features=True, dim=32)
    with pytest.raises(UserError, match="statistics of 32 dimensions for 'digits', whose features have 64"):
        load_real(digits_metrics(names=("fd_digits",), reference=str(file)), ASSETS)


def test_reference_of_another_resolution(tmp_path: Path) -> None:
    file = written(tmp_path / "small.safetensors", features=True)
    spec = digits_metrics(reference=str(file))
    check_resolution(spec, ASSETS, 8)
    with pytest.raises(UserError, match="made from images of 8x8 pixels, and the model makes 512x512"):
        check_resolution(spec, ASSETS, 512)


def test_missing_reference() -> None:
    with pytest.raises(UserError, match="no file at 'absent.npz'"):
        load_real(digits_metrics(reference="absent.npz"), ASSETS)
    with pytest.raises(UserError, match="img512.pkl' is not in the cache, and offline=true"):
        load_real(digits_metrics(reference="edm2:dataset-refs/img512.pkl"), ASSETS)


def test_statistics_never_come_from_the_features_of_another_set(tmp_path: Path) -> None:
    other = written(tmp_path / "other.safetensors", features=False, detector="vgg16", dim=4096)
    features = written(tmp_path / "features.safetensors", features=True)
    spec = digits_metrics(names=("fd_digits",), reference=str(other), real_features=str(features))
    with pytest.raises(UserError, match="metric 'fd_digits' needs statistics.*but .*other.safetensors"):
        load_real(spec, ASSETS)
    shipped = load_real(digits_metrics(), ASSETS)["digits"].stats
    mixed = load_real(digits_metrics(real_features=str(features)), ASSETS)["digits"]
    assert shipped is not None and mixed.stats is shipped and mixed.features is not None
    assert len(mixed.features) == 300  # of the file, while the statistics are of the 1,797 digits
    both = digits_metrics(names=("precision_digits",), reference=str(other), real_features=str(features))
    real = load_real(both, ASSETS)["digits"]
    assert real.stats is None and real.features is not None


def test_reference_by_other_weights_of_the_detector(tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    values = torch.randn(100, 64)
    facts = {"detectors": {"digits": "digits-deadbeef"}}
    write_reference(file, {"digits": Real(FeatureSums.of(values).stats(), values)}, facts)
    for setting in ("reference", "real_features"):
        with pytest.raises(
            UserError, match="made by detector digits-deadbeef, this run has digits-.*other weights"
        ):
            load_real(digits_metrics(names=("fd_digits",), **{setting: str(file)}), ASSETS)


def test_published_statistics_are_of_a_known_resolution() -> None:
    spec = digits_metrics(reference="edm2:dataset-refs/img64.pkl")
    check_resolution(spec, ASSETS, 64)
    with pytest.raises(
        UserError, match="img64.pkl' was made from images of 64x64 pixels, and the model makes 512x512"
    ):
        check_resolution(spec, ASSETS, 512)


def plain(path: Path, dim: int, seed: int = 0) -> Path:
    """Statistics that name no detector."""
    features = np.random.default_rng(seed).normal(size=(50, dim))
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    return path


@pytest.mark.parametrize(
    ("width", "detector"), [(64, "digits"), (1024, "dinov2_torch"), (96, "dinov2_torch")]
)
def test_a_file_that_names_no_detector_is_of_the_one_that_fits(
    width: int, detector: str, tmp_path: Path
) -> None:
    """DINOv2 networks of other sizes have other widths."""
    names = ("fd@digits", "is@inception") if width == 64 else ("fd@dinov2_torch", "is@inception")
    spec = digits_metrics(names=names, reference=str(plain(tmp_path / "x.npz", width)))
    assert set(load_real(spec, ASSETS)) == {detector}


def test_a_file_that_fits_no_detector_or_several(tmp_path: Path) -> None:
    path = plain(tmp_path / "x.npz", 9)
    with pytest.raises(UserError, match="9 dimensions, and features have 64 by 'digits'; give"):
        load_real(digits_metrics(names=("fd@digits",), reference=str(path)), ASSETS)
    path = plain(tmp_path / "y.npz", 1024)
    spec = digits_metrics(names=("fd@dinov2_torch", "fd@dinov2_pil"), reference=str(path))
    with pytest.raises(
        UserError, match="both have 1024.*metrics.reference=dinov2_torch=FILE,dinov2_pil=FILE"
    ):
        load_real(spec, ASSETS)


def test_a_file_for_each_detector(tmp_path: Path) -> None:
    first, second = plain(tmp_path / "a.npz", 1024, 1), plain(tmp_path / "b,c.npz", 1024, 2)
    spec = digits_metrics(
        names=("fd@dinov2_torch", "fd@dinov2_pil"), reference=f"dinov2_torch={first},dinov2_pil={second}"
    )
    real = load_real(spec, ASSETS)
    for name, path in (("dinov2_torch", first), ("dinov2_pil", second)):
        stats = real[name].stats
        assert stats is not None and np.array_equal(stats.mean.numpy(), np.load(path)["mu"])
    facts = reference_facts(spec, ASSETS)
    other = dataclasses.replace(spec, reference=f"dinov2_torch={second},dinov2_pil={first}")
    assert len(facts["sha256"]) == 64 != reference_facts(other, ASSETS)["sha256"]
    assert list(named_files(spec.reference).values()) == [str(first), str(second)]
    assert named_files("digits") == {"": "digits"} and named_files("a/inception=x.npz") == {
        "": "a/inception=x.npz"
    }
    with pytest.raises(UserError, match="no file at"):
        load_real(dataclasses.replace(spec, reference=f"dinov2_torch={first},dinov2_pil=no.npz"), ASSETS)
    with pytest.raises(UserError, match="'fd@dinov2_pil'|'fd_dinov2_pil'.*has them for dinov2_torch only"):
        load_real(dataclasses.replace(spec, reference=f"dinov2_torch={first}"), ASSETS)


def test_the_name_of_a_file_may_be_overruled_its_content_not(tmp_path: Path) -> None:
    """clean-fid's name says inception_pytorch; a reference of ours says which detector made it."""
    path = plain(tmp_path / "faces_legacy_pytorch_custom_na.npz", 64)
    spec = digits_metrics(names=("fd@digits",), reference=str(path))
    with pytest.raises(UserError, match="has them for inception_pytorch only"):
        load_real(spec, ASSETS)
    assert list(load_real(dataclasses.replace(spec, reference=f"digits={path}"), ASSETS)) == ["digits"]
    ours = written(tmp_path / "x.safetensors", features=False, detector="inception")
    with pytest.raises(UserError, match="has them for inception only"):
        load_real(dataclasses.replace(spec, reference=f"digits={ours}"), ASSETS)


def test_images_in_a_reference_tell_its_resolution(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, arr_0=np.zeros((3, 8, 8, 1), np.uint8), mu=np.zeros(3), sigma=np.eye(3), mu_clip=1)
    spec = digits_metrics(names=("fd@inception",), reference=str(path))
    check_resolution(spec, ASSETS, 8)
    with pytest.raises(UserError, match="images of 8x8 pixels, and the model makes 64x64"):
        check_resolution(spec, ASSETS, 64)
    assert capsys.readouterr().err == f"note: '{path}' also holds mu_clip, which is not used\n"


FDR6_WIDTHS = {
    "inception": 2048, "fdr6_convnext": 1024, "fdr6_dinov2": 1024, "fdr6_mae": 1024, "fdr6_siglip": 1152,
    "fdr6_clip": 1024,
}  # fmt: skip


def test_the_six_files_of_fdr6(tmp_path: Path) -> None:
    """None of them says whose it is, and four are equally wide."""
    parts = []
    for number, (name, width) in enumerate(FDR6_WIDTHS.items()):
        path = tmp_path / f"{name}_stats.npz"
        np.savez(path, ref_mu=np.full(width, number), ref_sigma=np.eye(width, dtype="f4"))
        parts.append(f"{name}={path}")
    spec = digits_metrics(names=("fdr6",), reference=",".join(parts))
    for number, (name, real) in enumerate(load_real(spec, ASSETS).items()):
        assert list(FDR6_WIDTHS)[number] == name and real.dim == FDR6_WIDTHS[name]
        assert real.stats is not None and (real.stats.mean == number).all()
    with pytest.raises(UserError, match="'fdr6' needs statistics.*by detector 'fdr6_clip'"):
        load_real(dataclasses.replace(spec, reference=",".join(parts[:-1])), ASSETS)
    with pytest.raises(UserError, match="1024 dimensions, and features have 1152 by 'fdr6_siglip'"):
        wrong = parts[4].replace("fdr6_siglip_stats", "fdr6_mae_stats")
        load_real(dataclasses.replace(spec, reference=",".join([*parts[:4], wrong, parts[5]])), ASSETS)
