"""Inception-v3 and VGG-16: torch-fidelity's numbers, and weight files that are read without running them."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from erk_bench.base.errors import UserError
from erk_bench.base.state_dicts import read_state_dict
from erk_bench.cli import main
from erk_bench.evaluation.detectors import DETECTORS
from erk_bench.evaluation.dinov2 import load_dinov2_pil, load_dinov2_torch
from erk_bench.evaluation.extract import Extract
from erk_bench.evaluation.frechet import frechet_distance
from erk_bench.evaluation.inception import (
    empty_inception,
    empty_vgg16,
    load_inception,
    load_inception_clean,
    load_inception_pytorch,
    load_vgg16,
    resize_clean,
)
from erk_bench.evaluation.reference_files import read_reference
from erk_bench.runs.blocks import Worker
from erk_bench.runs.export import export
from erk_bench.runs.generate import generate
from erk_bench.runs.score import score
from erk_bench.spec import RunSpec
from tests.assets import inception_weights, write_dinov2, write_inception, write_vgg16

LOADERS = [
    load_inception, load_inception_clean, load_inception_pytorch, load_vgg16, load_dinov2_torch,
    load_dinov2_pil,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def inception_file(folder: Path) -> Iterator[Path]:
    path = write_inception(folder / "inception.pth")
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def vgg16_file(folder: Path) -> Iterator[Path]:
    path = write_vgg16(folder / "vgg16.pth")
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> Extract:
    return load_inception(inception_file, "cpu")


@pytest.fixture(scope="module")
def vgg16(vgg16_file: Path) -> Extract:
    return load_vgg16(vgg16_file, "cpu")


def images() -> Tensor:
    """Two 40 x 32 images: noise around different brightnesses."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randint(0, 100, (2, 3, 40, 32), generator=generator, dtype=torch.uint8)
    return noise + torch.tensor([0, 155], dtype=torch.uint8)[:, None, None, None]


def test_inception_agrees_with_torch_fidelity(inception: Extract, inception_file: Path) -> None:
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased", "logits"],
        feature_extractor_weights_path=str(inception_file),
    )
    features, unbiased, biased = theirs(images())
    found = inception(images())
    assert list(found) == ["features", "logits", "inception_spatial"]
    assert found["features"].shape == (2, 2048) and found["logits"].shape == (2, 1008)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert (found["features"] - features).abs().max() <= 1e-6
    assert (found["logits"] - unbiased).abs().max() <= 1e-6
    assert (found["logits"] - biased).abs().max() > 1e-2  # the layer without bias is another
    assert (features[0] - features[1]).abs().max() > 1e-2  # images matter


def test_spatial_features_are_those_of_mixed_6_conv(inception: Extract, inception_file: Path) -> None:
    """The first 7 channels after the ReLU, in TensorFlow's order: rows, columns, channels."""
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception_file)
    )
    seen: list[Tensor] = []
    theirs.Mixed_6d.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs(images())
    expected = theirs.Mixed_6d.branch1x1(seen[0])[:, :7]
    found = inception(images())["inception_spatial"]
    assert found.shape == (2, 17 * 17 * 7) and found.dtype == torch.float32
    cells = found.reshape(2, 17, 17, 7)
    assert (cells.permute(0, 3, 1, 2) - expected).abs().max() <= 1e-6
    assert found.min() == 0 and found.max() > 0


def test_other_resizing_before_the_same_network(inception: Extract, inception_file: Path) -> None:
    """At 299 pixels nothing is resized: clean-fid's features are torch-fidelity's, pytorch-fid's are not,
    because its images are scaled around another zero."""
    generator = torch.Generator().manual_seed(7)
    batch = torch.randint(0, 256, (1, 3, 299, 299), generator=generator, dtype=torch.uint8)
    found = inception(batch)
    clean = load_inception_clean(inception_file, "cpu")(batch)
    theirs = load_inception_pytorch(inception_file, "cpu")
    for name in ("features", "logits"):
        assert list(clean) == ["features", "logits"]
        assert (clean[name] - found[name]).abs().max() <= 1e-5
        gap = (theirs(batch)[name] - found[name]).abs().max()
        assert 1e-4 < gap < 0.1 * found[name].abs().max()


def test_clean_resizing() -> None:
    """Bicubic and antialiased by PIL on floats: means are kept, nothing is rounded, overshoot is cut."""
    generator = torch.Generator().manual_seed(8)
    batch = torch.randint(0, 256, (2, 3, 598, 400), generator=generator, dtype=torch.uint8)
    found = resize_clean(batch)
    assert found.shape == (2, 3, 299, 299) and found.dtype == torch.float32
    one = Image.fromarray(batch[1, 2].numpy().astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    assert torch.equal(found[1, 2], torch.from_numpy(np.asarray(one).clip(0, 255)))
    assert (found.mean((2, 3)) - batch.float().mean((2, 3))).abs().max() < 0.5
    assert (found != found.round()).any()
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    enlarged = resize_clean(checks.to(torch.uint8)[None, None])
    assert enlarged.shape == (1, 1, 299, 299) and enlarged.min() == 0 and enlarged.max() == 255
    assert resize_clean(batch[:0]).shape == (0, 3, 299, 299)


@pytest.mark.slow
def test_vgg16_agrees_with_torch_fidelity(vgg16: Extract, vgg16_file: Path) -> None:
    """Slow because torch-fidelity first draws 138 million random weights."""
    layer = FeatureExtractorVGG16.get_default_feature_layer_for_metric("prc")
    theirs = FeatureExtractorVGG16("vgg16", [layer], feature_extractor_weights_path=str(vgg16_file))
    (features,) = theirs(images())
    found = vgg16(images())
    assert list(found) == ["features"]
    assert found["features"].shape == (2, 4096) and found["features"].dtype == torch.float32
    assert (found["features"] - features).abs().max() <= 1e-6
    assert (features[0] - features[1]).abs().max() > 1e-2


def test_vgg16_is_torchvisions_after_the_second_linear_layer(vgg16: Extract, vgg16_file: Path) -> None:
    """At 224 pixels nothing is resized."""
    generator = torch.Generator().manual_seed(6)
    batch = torch.randint(0, 256, (1, 3, 224, 224), generator=generator, dtype=torch.uint8)
    network = empty_vgg16().to_empty(device="cpu").eval()
    network.load_state_dict(torch.load(vgg16_file))
    mean = torch.tensor([255 * 0.485, 255 * 0.456, 255 * 0.406])[:, None, None]
    std = torch.tensor([255 * 0.229, 255 * 0.224, 255 * 0.225])[:, None, None]
    with torch.inference_mode():
        pooled = network.features((batch - mean) / std)
        expected = network.classifier[:5](pooled.flatten(1))
    found = vgg16(batch)
    assert list(found) == ["features"]
    assert found["features"].shape == (1, 4096) and found["features"].dtype == torch.float32
    assert (found["features"] - expected).abs().max() <= 1e-5
    assert expected.max() > 1 and (expected == 0).any()  # after the ReLU


@pytest.mark.parametrize("name", ["inception", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_rows_do_not_depend_on_the_batch(name: str, request: pytest.FixtureRequest) -> None:
    extract = request.getfixturevalue(name)
    together, alone = extract(images()), extract(images()[1:2])
    for layer, value in alone.items():
        assert (value - together[layer][1:2]).abs().max() <= 1e-5, layer


def test_same_images_give_the_same_bytes(inception: Extract) -> None:
    first, second = inception(images()[:1]), inception(images()[:1])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_grey_images_are_measured_as_three_equal_channels(inception: Extract) -> None:
    grey = images()[:2, :1]
    found, expected = inception(grey), inception(grey.repeat(1, 3, 1, 1))
    assert torch.equal(found["features"], expected["features"])
    assert torch.equal(found["logits"], expected["logits"])


@pytest.mark.slow
def test_fid_of_a_grey_model(
    inception_file: Path,
    small_run: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Grey real images -> reference -> FID of a grey run; its exported PNG files have the same features."""
    row = DETECTORS["inception"]
    monkeypatch.setitem(DETECTORS, "inception", row._replace(weights=str(inception_file)))
    (tmp_path / "real").mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{index}.png")
    words = ["reference", "resolution=8", "detectors=inception", "device=cpu", "keep_features=true"]
    real = tmp_path / "real.safetensors"
    assert main([*words, f"source={tmp_path / 'real'}", f"to={real}"]) == 0
    spec = small_run(
        "model.name=mine", "model.decoder=grey", "metrics.names=[fid]", f"metrics.reference={real}",
        "metrics.num_groups=2", "seeds=0-7", "samples=blocks",
    )  # fmt: skip
    generate([[spec]], Worker(), lambda run, images: None, features=True)
    fid = score(spec).metrics["fid"].value
    export(spec, "png", str(tmp_path / "png"))
    assert Image.open(tmp_path / "png" / "000000" / "000000.png").mode == "L"
    back = tmp_path / "back.safetensors"
    assert main([*words, f"source={tmp_path / 'png'}", f"to={back}"]) == 0
    made, found = (read_reference(path)["inception"].stats for path in (real, back))
    assert made is not None and found is not None
    distance = frechet_distance(found.mean, found.covariance, made.mean, made.covariance)
    assert distance == pytest.approx(fid, rel=1e-3)


def test_inception_reads_other_containers_of_the_same_tensors(inception: Extract, tmp_path: Path) -> None:
    """safetensors and torch.save's container of before 2020: the same bytes come out."""
    weights = inception_weights()
    save_file(weights, tmp_path / "inception.safetensors")
    uncounted = {name: value for name, value in weights.items() if "num_batches" not in name}
    torch.save(uncounted, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    expected = inception(images()[:1])
    for name in ("inception.safetensors", "old.pth"):
        found = load_inception(tmp_path / name, "cpu")(images()[:1])
        assert all(torch.equal(found[layer], expected[layer]) for layer in expected), name
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (torch.zeros(2, 3, 8, 8), r"got torch.float32 \[2, 3, 8, 8\]"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[2, 2, 8, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[3, 8, 8\]"),
    ],
)
def test_other_images_are_refused(
    bad: Tensor, told: str, inception: Extract, vgg16: Extract, tmp_path: Path
) -> None:
    path = write_dinov2(tmp_path / "dinov2.pth")
    detectors = {
        "inception": inception,
        "vgg16": vgg16,
        "dinov2_torch": load_dinov2_torch(path, "cpu"),
        "dinov2_pil": load_dinov2_pil(path, "cpu"),
    }
    for name, extract in detectors.items():
        with pytest.raises(
            UserError, match=rf"the {name} detector takes uint8 images \[B, 3, H, W\].*{told}"
        ):
            extract(bad)


class Hostile:
    """Unpickled without restriction, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("container", ["zip", "old", "plain"])
def test_a_hostile_file_is_refused_and_not_run(
    load: Callable[..., Extract], container: str, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    content = {"fc.weight": torch.zeros(3), "fc.bias": Hostile(mark)}
    data = {
        "zip": lambda: saved(content),
        "old": lambda: saved(content, _use_new_zipfile_serialization=False),
        "plain": lambda: pickle.dumps(Hostile(mark), protocol=2),
    }[container]()
    path = tmp_path / "hostile.pth"
    path.write_bytes(data)
    with pytest.raises(
        UserError, match="hostile.pth' is no safe weight file: it names '.*mkdir'.*erk-bench fetch"
    ):
        load(path, "cpu")
    assert not mark.exists()
    with path.open("rb") as file:  # the file does what it threatens to do
        pickle.load(file) if container == "plain" else torch.load(file, weights_only=False)
    assert mark.is_dir()


def test_files_are_never_unpickled_without_restriction(
    inception_file: Path, vgg16_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch-fidelity's constructors do so; all they may be given is a buffer made here."""
    calls: list[tuple[Any, Any]] = []
    load = torch.load

    def recording(file: Any, *args: Any, **options: Any) -> Any:
        calls.append((file, options.get("weights_only")))
        return load(file, *args, **options)

    monkeypatch.setattr(torch, "load", recording)
    load_inception(inception_file, "cpu")
    load_vgg16(vgg16_file, "cpu")
    assert {file for file, _ in calls if isinstance(file, Path)} == {inception_file, vgg16_file}
    assert all(isinstance(file, io.BytesIO) for file, restricted in calls if restricted is not True)


@pytest.mark.parametrize("load", LOADERS)
def test_damaged_files_are_refused(load: Callable[..., Extract], tmp_path: Path) -> None:
    good = saved({"a": torch.arange(3000.0)})
    old = saved({"a": torch.arange(3000.0)}, _use_new_zipfile_serialization=False)
    damaged = {
        "a": good[:4000],
        "b": old[:4000],
        "c": b"",
        "d": b"<html>404</html>",
        "e": b"PK\x03\x04" + bytes(99),
    }
    for name, data in damaged.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=f"{name}.pth' is no safe weight file: it is damaged.*erk-bench fetch"
        ):
            load(path, "cpu")
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(3000)}, path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(UserError, match="a.safetensors' is no readable safetensors file.*erk-bench fetch"):
        load(path, "cpu")
    with pytest.raises(UserError, match="no weight file at '.*none.pth'"):
        load(tmp_path / "none.pth", "cpu")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_changed_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    """400 files with a few bytes of the pickle replaced: read, or refused with a UserError."""
    generator = torch.Generator().manual_seed(11)
    path = tmp_path / "changed.pth"
    refused = 0
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        good = saved({"a": torch.zeros(8)}, **options)
        for _ in range(200):
            data = bytearray(good)
            for _ in range(3):
                data[int(torch.randint(len(data), (), generator=generator))] = int(
                    torch.randint(256, (), generator=generator)
                )
            path.write_bytes(bytes(data))
            try:
                read_state_dict(path)
            except UserError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.zeros(2)], "holds a list, not named tensors"),
        ({"state": {"a": torch.zeros(2)}}, "entry 'state' of .* is a dict, not a named tensor"),
        ({3: torch.zeros(2)}, "entry 3 of .* is a Tensor, not a named tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Any, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=told):
        read_state_dict(tmp_path / "other.pth")


def small_inception() -> dict[str, Tensor]:
    """All tensors of Inception-v3, each a view of one zero, so that files of it are small."""
    weights = {
        name: torch.zeros(()).expand(value.shape) for name, value in empty_inception().state_dict().items()
    }
    return {name: value.long() if "num_batches" in name else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "Mixed_5b.branch1x1.conv.weight",
            None,
            r"is missing in the file, \[64, 192, 1, 1\] floating point in",
        ),
        (
            "fc.weight",
            torch.zeros(1000, 2048),
            r"is \[1000, 2048\] floating point in the file, \[1008, 2048\]",
        ),
        (
            "fc.bias",
            torch.zeros(1008, dtype=torch.int64),
            r"is \[1008\] torch.int64 in the file, \[1008\] float",
        ),
        ("extra", torch.zeros(1), r"is \[1\] floating point in the file, missing in the network"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    name: str, value: Tensor | None, told: str, tmp_path: Path
) -> None:
    weights = small_inception()
    uncounted = {name: value for name, value in weights.items() if "num_batches" not in name}
    torch.save(uncounted, tmp_path / "fits.pth")
    load_inception(tmp_path / "fits.pth", "cpu")
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"tensor '{name}' {told}.*\(1 tensors differ\).*erk-bench fetch"):
        load_inception(tmp_path / "other.pth", "cpu")


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = write_dinov2(tmp_path / "dinov2.pth")
    with pytest.raises(
        UserError, match="does not fit torch-fidelity's Inception-v3: tensor 'Conv2d_1a_3x3.conv"
    ):
        load_inception(path, "cpu")
    with pytest.raises(UserError, match=r"does not fit torchvision's VGG-16: tensor 'features\.0\.weight'"):
        load_vgg16(path, "cpu")


@pytest.mark.slow
def test_threads_get_features_of_their_own_images(inception: Extract) -> None:
    """Several runs are scored at a time, with one network."""
    make = torch.Generator().manual_seed(0)
    sets = [torch.randint(0, 256, (2, 3, 20, 20), generator=make, dtype=torch.uint8) for _ in range(4)]
    alone = [inception(images)["inception_spatial"] for images in sets]
    with ThreadPoolExecutor(4) as pool:
        together = [found["inception_spatial"] for found in pool.map(inception, sets)]
    for mine, theirs in zip(alone, together, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
