"""References as other programs write them: what each file tells, and what it is refused for."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics
from torch_fidelity.utils_torch import torch_atomic_save

from erk_bench.base.errors import UserError
from erk_bench.base.pickles import UnsafePickleError
from erk_bench.base.torch_files import read_torch_file
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.reference_files import read_contents, write_reference
from erk_bench.evaluation.reference_formats import read_images

DATA = Path(__file__).parent.parent / "data"
FEATURES = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
MU = FEATURES.double().mean(0).numpy()
SIGMA = np.cov(FEATURES.double().numpy(), rowvar=False)
STAT = "set-inception-v3-compat-stat-fid-2048.pt"
KEPT = "set-inception-v3-compat-features-2048.pt"


def test_adm_has_statistics_of_two_layers_and_images() -> None:
    path = DATA / "adm_reference_tiny.npz"
    found = read_contents(path)
    arrays = np.load(path)
    assert found.unnamed is None and found.images == (120, 24, 24) and found.unused == ()
    for detector, mu, sigma in (("inception", "mu", "sigma"), ("inception_spatial", "mu_s", "sigma_s")):
        stats = found.reals[detector].stats
        assert stats is not None and np.array_equal(stats.mean.numpy(), arrays[mu])
        assert np.array_equal(stats.covariance.numpy(), arrays[sigma])
    images = list(read_images(path, 50))
    assert [len(each) for each in images] == [50, 50, 20]
    assert np.array_equal(torch.cat(images).permute(0, 2, 3, 1).numpy(), arrays["arr_0"])


def test_labels_and_clip_statistics_are_told_not_used(tmp_path: Path) -> None:
    assert read_contents(DATA / "adm_labeled_tiny.npz").unused == ("arr_1",)
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, arr_0=np.zeros((3, 4, 4, 3), np.uint8), mu=MU, sigma=SIGMA, mu_clip=MU, sigma_clip=SIGMA)
    found = read_contents(path)
    assert found.unused == ("mu_clip", "sigma_clip") and set(found.reals) == {"inception"}


@pytest.mark.parametrize("names", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
def test_plain_statistics_name_no_detector(names: tuple[str, str], tmp_path: Path) -> None:
    """EDM's, JiT's, pytorch-fid's and FDr6's files."""
    path = tmp_path / "stats.npz"
    np.savez(path, **dict(zip(names, (MU, SIGMA), strict=True)))
    found = read_contents(path)
    assert found.reals == {} and found.unnamed is not None and found.unnamed.dim == 6
    assert found.unnamed.features is None


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        ("faces_clean_custom_na.npz", "inception_clean"),
        ("ffhq_legacy_tensorflow_trainval70k_1024.npz", "inception"),
        ("faces_legacy_pytorch_custom_na.npz", "inception_pytorch"),
        ("my_clean_faces.npz", None),
        ("clean.npz", None),
    ],
)
def test_clean_fid_says_the_mode_in_its_names(name: str, detector: str | None, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / name, mu=MU.astype("f4"), sigma=SIGMA)
    found = read_contents(tmp_path / name)
    assert list(found.reals) == ([] if detector is None else [detector])
    assert found.by_name == (detector is not None)
    kid = name.replace(".npz", "_kid.npz")
    np.savez_compressed(tmp_path / kid, feats=FEATURES.numpy())
    found = read_contents(tmp_path / kid)
    real = found.unnamed if detector is None else found.reals[detector]
    assert real is not None and real.features is not None and torch.equal(real.features, FEATURES)
    assert real.stats is not None and np.allclose(real.stats.covariance.numpy(), SIGMA, atol=1e-12)


def test_clean_fid_with_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faces_clean_clip_vit_b_32_custom_na.npz"
    np.savez(path, mu=MU, sigma=SIGMA)
    with pytest.raises(UserError, match="clip_vit_b_32.*no detector.*rename it"):
        read_contents(path)


class _Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.marker}",)


def test_dgm_eval_names_its_network(tmp_path: Path) -> None:
    """Its hyperparameters are a pickled object, which stays unread."""
    marker = tmp_path / "ran"
    path = tmp_path / "reps_imagenet_dinov2_nimage-30_train.npz"
    hostile = np.empty((), dtype=object)
    hostile[()] = _Runs(marker)
    np.savez(path, model="dinov2", reps=FEATURES.double().numpy(), hparams=hostile)
    found = read_contents(path)
    real = found.reals["dinov2_pil"]
    assert real.features is not None and torch.equal(real.features, FEATURES)
    assert found.unused == ("hparams",) and not found.by_name and not marker.exists()
    np.savez(path, model="swav", reps=FEATURES.double().numpy(), hparams=hostile)
    with pytest.raises(UserError, match="dgm-eval's 'swav', which no detector.*known: dinov2, inception"):
        read_contents(path)


def test_torch_fidelity_statistics(tmp_path: Path) -> None:
    """Written by torch-fidelity's own functions."""
    torch_atomic_save(fid_features_to_statistics(FEATURES), str(tmp_path / STAT))
    found = read_contents(tmp_path / STAT)
    stats = found.reals["inception"].stats
    assert found.by_name and stats is not None
    assert np.array_equal(stats.covariance.numpy(), np.cov(FEATURES.numpy(), rowvar=False))
    renamed = (tmp_path / STAT).rename(tmp_path / "stats.pt")
    assert read_contents(renamed).unnamed is not None


def test_torch_fidelity_features(tmp_path: Path) -> None:
    torch_atomic_save(FEATURES, str(tmp_path / KEPT))
    real = read_contents(tmp_path / KEPT).reals["inception"]
    assert real.features is not None and torch.equal(real.features, FEATURES)
    assert real.stats is not None
    assert torch.equal(real.stats.covariance, FeatureSums.of(FEATURES).stats().covariance)
    torch_atomic_save(FEATURES, str(tmp_path / "set-vgg16-features-fc2_relu.pt"))
    assert list(read_contents(tmp_path / "set-vgg16-features-fc2_relu.pt").reals) == ["vgg16"]


@pytest.mark.parametrize(
    "name",
    [
        "set-inception-v3-compat-features-logits_unbiased.pt",
        "set-dinov2-vit-l-14-stat-fid-dinov2.pt",
        "a-b-clip-vit-b-32-features-clip-vit-b-32.pt",
    ],
)
def test_torch_fidelity_of_other_networks(name: str, tmp_path: Path) -> None:
    torch_atomic_save(FEATURES, str(tmp_path / name))
    with pytest.raises(UserError, match="which no detector computes as it does; known: inception-v3-compat"):
        read_contents(tmp_path / name)


def test_hostile_torch_files_run_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "x.pt"
    torch.save({"mu": _Runs(marker), "sigma": SIGMA}, path)
    with pytest.raises(UnsafePickleError, match="names the global.*Nothing was run"):
        read_contents(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the payload is harmless, so the test would prove nothing"


def rewrite(path: Path, member: str, raw: bytes) -> None:
    """Give a torch file another member of this name."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert f"x/{member}" in content
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in content.items():
            archive.writestr(name, raw if name == f"x/{member}" else values)


def test_damaged_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(FEATURES, path)
    whole = path.read_bytes()
    rewrite(path, "data/0", b"\0" * 16)
    with pytest.raises(UserError, match="no readable file of torch.save.*16 bytes, not those of 180"):
        read_torch_file(path)
    path.write_bytes(whole)
    rewrite(path, "byteorder", b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(path)
    path.write_bytes(whole[:100])
    with pytest.raises(UserError, match="no readable file of torch.save.*truncated"):
        read_torch_file(path)
    for content in ([1, 2], {"mu": {"a": FEATURES}}, {5: FEATURES}):
        torch.save(content, path)
        with pytest.raises(UserError):
            read_contents(path)
    torch.save({"weights": FEATURES}, path)
    with pytest.raises(UserError, match="holds weights; expected mu and sigma"):
        read_contents(path)


def test_a_bomb_is_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(UnsafePickleError, match="expands to more than its own size"):
        read_contents(path)


def test_the_content_decides_where_the_ending_does_not(tmp_path: Path) -> None:
    path = tmp_path / "download"
    np.savez(tmp_path / "x.npz", mu=MU, sigma=SIGMA)
    torch_atomic_save(fid_features_to_statistics(FEATURES), str(tmp_path / "x.pt"))
    content = pickle.dumps({"fid": {"mu": MU, "sigma": SIGMA}}, 4)
    (tmp_path / "x.pkl").write_bytes(content)
    real = read_contents(tmp_path / "x.npz").unnamed
    assert real is not None
    write_reference(tmp_path / "x.safetensors", {"digits": real}, {})
    for ending in ("npz", "pt", "pkl", "safetensors"):
        path.write_bytes((tmp_path / f"x.{ending}").read_bytes())
        found = read_contents(path)
        (read,) = [*found.reals.values(), *([] if found.unnamed is None else [found.unnamed])]
        assert read.stats is not None and np.allclose(read.stats.covariance.numpy(), SIGMA, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((3, 4), np.uint8)}, r"arr_0 has shape \[3, 4\]; expected images"),
        ({"feats": np.zeros((3, 4), np.int64)}, "features are torch.int64"),
        ({"feats": np.zeros((1, 4))}, "at least 2 images"),
        ({"feats": np.full((3, 4), np.nan)}, "features are not finite"),
        ({"reps": np.zeros((3, 4, 5))}, "expected floats"),
        ({"mu": MU}, "holds mu; expected mu and sigma"),
    ],
)
def test_arrays_that_make_no_sense(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_contents(tmp_path / "x.npz")


def test_images_must_be_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((3, 4, 4, 3), np.float32))
    with pytest.raises(UserError, match="arr_0 of .* is of type float32.*images are uint8"):
        list(read_images(tmp_path / "x.npz", 2))
