"""References made from images: right to the last digits, the same bytes when stopped, clear refusals."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation import make_reference as module
from erk_bench.evaluation.image_source import ImageSource
from erk_bench.evaluation.make_reference import make_reference
from erk_bench.evaluation.real_images import center_crop, open_images
from erk_bench.evaluation.reference_files import read_facts, read_reference

RESOLUTION = 8
KEYS = {"colour": "colour-1", "projection": "projection-2"}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 10)


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    """37 images of several sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(37):
        size = (8 + index % 3, 8 + index % 5 * 6, 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{index:02d}.png")
    return open_images(folder)


def colour(images: Tensor) -> dict[str, Tensor]:
    """Mean and spread of each channel, and logits that are of no use."""
    values = images.flatten(2).double()
    return {"features": torch.cat([values.mean(2), values.std(2)], 1).float(), "logits": torch.ones(1)}


def projection(images: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(3 * RESOLUTION**2, 9, generator=generator)
    return {"features": (images.flatten(1).float() / 100 - 1) @ matrix}


EXTRACTORS = {"colour": colour, "projection": projection}


def make(
    source: ImageSource,
    out: Path,
    extractors: Mapping[str, Callable[[Tensor], dict[str, Tensor]]] = EXTRACTORS,
    *,
    resolution: int = RESOLUTION,
    keys: Mapping[str, str] = KEYS,
    keep_features: bool = True,
    limit: int | None = None,
    batch: int = 4,
    advance: Callable[[int], None] = lambda _: None,
    shuffle_seed: int | None = None,
    tell: Callable[[str], None] = pytest.fail,
) -> bytes:
    """The bytes of the reference."""
    make_reference(
        source, resolution, extractors, keys, out, keep_features=keep_features, limit=limit, batch=batch,
        advance=advance, shuffle_seed=shuffle_seed, tell=tell,
    )  # fmt: skip
    assert not out.with_name(out.name + ".parts").exists()
    return out.read_bytes()


def counted(source: ImageSource) -> tuple[ImageSource, list[int]]:
    """The source, and the indices that are read from it."""
    reads: list[int] = []

    def load(index: int) -> bytes:
        reads.append(index)
        return source.load(index)

    return replace(source, load=load), reads


class StoppedError(Exception):
    pass


def stopping(after: int) -> dict[str, Callable[[Tensor], dict[str, Tensor]]]:
    """Extractors of which one fails at its batch number `after`."""
    calls = [0]

    def extract(images: Tensor) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] > after:
            raise StoppedError
        return projection(images)

    return {"colour": colour, "projection": extract}


def test_numbers(source: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "real.safetensors"
    make(source, out)
    images = torch.stack([center_crop(source.read(index), RESOLUTION) for index in range(37)])
    reals = read_reference(out)
    assert sorted(reals) == ["colour", "projection"]
    for name, extract in EXTRACTORS.items():
        features = extract(images)["features"]
        real = reals[name]
        assert real.features is not None and real.stats is not None
        assert torch.allclose(real.features, features, rtol=1e-6, atol=1e-5)  # batches of another size
        wide = real.features.double().numpy()
        covariance = np.cov(wide, rowvar=False)
        assert np.abs(real.stats.mean.numpy() - wide.mean(0)).max() <= 1e-12 * np.abs(wide).max()
        assert np.abs(real.stats.covariance.numpy() - covariance).max() <= 1e-12 * np.abs(covariance).max()
    facts = read_facts(out)
    assert len(facts.pop("names_sha256")) == 64
    digests = [hashlib.sha256((tmp_path / "images" / name).read_bytes()).digest() for name in source.names]
    assert facts.pop("content_sha256") == hashlib.sha256(b"".join(digests)).hexdigest()
    assert facts == {
        "detectors": KEYS,
        "num_images": 37,
        "resolution": RESOLUTION,
        "source": "images",
        "shuffle_seed": None,
        "features": True,
    }


@pytest.mark.parametrize("keep_features", [True, False])
@pytest.mark.parametrize("after", range(13))
def test_stopped_and_resumed(after: int, keep_features: bool, source: ImageSource, tmp_path: Path) -> None:
    """37 images in batches of 4 within chunks of 10 are 11 batches."""
    whole = make(source, tmp_path / "whole.safetensors", keep_features=keep_features)
    out = tmp_path / "stopped.safetensors"
    if after < 11:
        with pytest.raises(StoppedError):
            make(source, out, stopping(after), keep_features=keep_features)
        assert not out.exists()
    recorder, reads = counted(source)
    steps: list[int] = []
    assert make(recorder, out, keep_features=keep_features, advance=steps.append) == whole
    finished = 10 * min(after // 3, 3)
    assert sorted(reads) == list(range(finished if after < 11 else 0, 37))
    assert sum(steps) == 37 and all(steps)
    assert steps[0] == (finished if after < 11 and finished else 4)


def test_stopped_while_writing_a_part(
    source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(source, tmp_path / "whole.safetensors")
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(5))
    parts = tmp_path / "x.safetensors.parts"
    assert sorted(path.name for path in parts.iterdir()) == ["000000.safetensors", "settings.json"]
    (parts / ".000001.safetensors.123.tmp").write_bytes(b"half")
    assert make(source, out) == whole


def test_stopped_after_the_reference_was_written(
    source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.safetensors"

    def fail(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(module, "remove_parts", fail)
        make(source, out)
    before = out.stat().st_mtime_ns
    recorder, reads = counted(source)
    make(recorder, out)  # also asserts that the parts are gone
    assert sorted(reads) == list(range(37))  # whether they are the same images still
    assert out.stat().st_mtime_ns == before


def test_finished_is_finished(source: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    first = make(source, out)
    recorder, reads = counted(source)
    steps: list[int] = []
    assert make(recorder, out, advance=steps.append) == first
    assert sorted(reads) == list(range(37)) and steps == [37]  # read, not decoded
    for changed in ({"resolution": 4}, {"keep_features": False}, {"limit": 20}):
        with pytest.raises(UserError, match="x.safetensors' was made with another"):
            make(source, out, **changed)
    assert out.read_bytes() == first


OTHER_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "resolution": ({"resolution": 4}, "another resolution: 8, now 4"),
    "keys": ({"keys": KEYS | {"colour": "colour-2"}}, "another detectors: .*colour-1.*now.*colour-2"),
    "detectors": (
        {"keys": {"colour": "colour-1"}, "extractors": {"colour": colour}},
        "another detectors",
    ),
    "limit": ({"limit": 30}, "another number of images: 37, now 30"),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_parts_of_other_settings_are_refused(name: str, source: ImageSource, tmp_path: Path) -> None:
    changed, message = OTHER_SETTINGS[name]
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(8))
    with pytest.raises(
        UserError, match=rf"x\.safetensors\.parts' was made with {message}.*repeat the earlier"
    ):
        make(source, out, **changed)
    assert len(list((tmp_path / "x.safetensors.parts").iterdir())) == 3  # nothing was removed
    make(source, out)


def test_parts_of_another_listing_are_refused(source: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(8))
    renamed = replace(source, names=["new.png", *source.names[1:]])
    with pytest.raises(UserError, match=r"another list of images \(sha256\)"):
        make(renamed, out)
    with pytest.raises(StoppedError):
        make(source, tmp_path / "y.safetensors", stopping(4), limit=20)
    with pytest.raises(UserError, match="another list of images"):
        make(source, tmp_path / "y.safetensors", limit=20, shuffle_seed=0)


def replace_image(path: Path, *, same_time: bool = True) -> None:
    """Another image under the same name, and of the same size and time where asked."""
    before = path.stat()
    shape = np.asarray(Image.open(path)).shape
    noise = np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(noise).save(path)
    if same_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("same_time", [True, False])
def test_a_finished_reference_of_replaced_images_is_refused(
    same_time: bool, source: ImageSource, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    before = make(source, out)
    replace_image(tmp_path / "images" / "36.png", same_time=same_time)
    with pytest.raises(UserError, match="x.safetensors' was made from images .* whose content changed since"):
        make(open_images(tmp_path / "images"), out)
    assert out.read_bytes() == before
    out.unlink()
    assert make(open_images(tmp_path / "images"), out) != before


def test_a_folder_moved_into_the_place_of_another_is_noticed(source: ImageSource, tmp_path: Path) -> None:
    make(source, tmp_path / "x.safetensors")
    shutil.copytree(tmp_path / "images", tmp_path / "other")
    replace_image(tmp_path / "other" / "00.png")
    (tmp_path / "images").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "images")
    with pytest.raises(UserError, match="whose content changed since"):
        make(open_images(tmp_path / "images"), tmp_path / "x.safetensors")


@pytest.mark.parametrize("same_time", [True, False])
@pytest.mark.parametrize("names", [("03.png",), ("03.png", "12.png", "30.png"), ("30.png",)])
def test_parts_of_replaced_images_are_made_anew(
    names: tuple[str, ...], same_time: bool, source: ImageSource, tmp_path: Path
) -> None:
    """Stopped after two of four parts: never a mixture of both sets."""
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(7))
    for name in names:
        replace_image(tmp_path / "images" / name, same_time=same_time)
    told: list[str] = []
    found = make(open_images(tmp_path / "images"), out, tell=told.append)
    assert found == make(open_images(tmp_path / "images"), tmp_path / "whole.safetensors")
    changed = [name for name in names if name < "20.png"]
    assert len(told) == bool(changed)
    if changed:
        assert told[0].startswith(f"{len(changed)} images of ") and all(name in told[0] for name in changed)


def test_touched_or_copied_images_are_the_same(source: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(7))
    shutil.copytree(tmp_path / "images", tmp_path / "copy" / "images")
    recorder, _ = counted(open_images(tmp_path / "copy" / "images"))
    first = make(recorder, out)  # `tell` fails the test
    for path in (tmp_path / "images").iterdir():
        path.touch()
    assert make(open_images(tmp_path / "images"), out) == first


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_replaced_images_in_archives(kind: str, source: ImageSource, tmp_path: Path) -> None:
    def pack() -> ImageSource:
        return open_images(shutil.make_archive(str(tmp_path / "set"), kind, tmp_path / "images"))

    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(pack(), out, stopping(7))
    replace_image(tmp_path / "images" / "03.png")
    told: list[str] = []
    second = pack()
    assert sorted(name.removeprefix("./") for name in second.names) == [
        f"{index:02d}.png" for index in range(37)
    ]
    changed = make(second, out, tell=told.append)
    assert len(told) == 1 and "1 images of" in told[0] and "03.png" in told[0]
    assert changed == make(second, tmp_path / "whole.safetensors")
    replace_image(tmp_path / "images" / "36.png")
    with pytest.raises(UserError, match="whose content changed since"):
        make(pack(), out)


def test_a_folder_and_its_zip_have_one_content(source: ImageSource, tmp_path: Path) -> None:
    make(source, tmp_path / "a.safetensors")
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "images")
    make(open_images(archive), tmp_path / "b.safetensors")
    first, second = (read_facts(tmp_path / f"{name}.safetensors") for name in "ab")
    assert first["content_sha256"] == second["content_sha256"]


def test_features_may_be_kept_or_not_at_the_end(source: ImageSource, tmp_path: Path) -> None:
    whole = make(source, tmp_path / "whole.safetensors", keep_features=True)
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(8), keep_features=False)
    assert make(source, out, keep_features=True) == whole
    lean = tmp_path / "lean.safetensors"
    make(source, lean, keep_features=False)
    for name, real in read_reference(lean).items():
        full = read_reference(out)[name]
        assert real.features is None and real.stats is not None and full.stats is not None
        assert torch.equal(real.stats.covariance, full.stats.covariance)


def test_the_place_does_not_matter(source: ImageSource, tmp_path: Path) -> None:
    whole = make(source, tmp_path / "a.safetensors")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images").rename(tmp_path / "elsewhere" / "images")
    moved = open_images(tmp_path / "elsewhere" / "images")
    assert make(moved, tmp_path / "b.safetensors") == whole


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_any_batch_size(batch: int, source: ImageSource, tmp_path: Path) -> None:
    make(source, tmp_path / "a.safetensors")
    make(source, tmp_path / "b.safetensors", batch=batch)
    first, second = (read_reference(tmp_path / f"{name}.safetensors") for name in "ab")
    for name in first:
        a, b = first[name].features, second[name].features
        assert a is not None and b is not None
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-5)


def test_each_image_is_read_once_and_not_far_ahead(source: ImageSource, tmp_path: Path) -> None:
    recorder, reads = counted(source)
    done = ahead = 0
    gate = threading.Event()

    def slow(images: Tensor) -> dict[str, Tensor]:
        nonlocal done, ahead
        gate.wait(0.02)  # time for the threads to read as far as they may
        ahead = max(ahead, len(reads) - done)
        done += len(images)
        return colour(images)

    make(recorder, tmp_path / "x.safetensors", EXTRACTORS | {"colour": slow})
    assert sorted(reads) == list(range(37))
    assert 4 < ahead <= 4 + 2 * 4  # beside the batch at work, two more; and decoding does run ahead


def test_limit_takes_the_first(source: ImageSource, tmp_path: Path) -> None:
    recorder, reads = counted(source)
    make(recorder, tmp_path / "x.safetensors", limit=12)
    assert sorted(reads) == list(range(12))
    assert read_facts(tmp_path / "x.safetensors")["num_images"] == 12


def test_shuffle_chooses_the_same_images_always(source: ImageSource, tmp_path: Path) -> None:
    chosen = {}
    for seed in (0, 1):
        recorder, reads = counted(source)
        make(recorder, tmp_path / f"{seed}.safetensors", limit=6, shuffle_seed=seed)
        chosen[seed] = sorted(reads)
        assert read_facts(tmp_path / f"{seed}.safetensors")["shuffle_seed"] == seed
    assert chosen[0] == sorted(np.random.RandomState(0).permutation(37)[:6].tolist())
    assert chosen[0] == [10, 16, 20, 22, 28, 31]  # for ever: records name the seed only
    assert chosen[0] != chosen[1]
    with pytest.raises(UserError, match="shuffle_seed is -1; it must be between"):
        make(source, tmp_path / "z.safetensors", shuffle_seed=-1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"limit": 38}, r"limit is 38 but '.*images' has only 37 images"),
        ({"limit": 1}, "1 images of .* give no covariance; use at least 2"),
        ({"limit": 0}, "0 images"),
        ({"limit": -5}, "-5 images"),
        ({"batch": 0}, "batch is 0; both must be at least 1"),
        ({"resolution": 0}, "resolution is 0"),
        ({"keys": {"colour": "a"}}, r"extractors are \['colour', 'projection'\] but keys .*\['colour'\]"),
        ({"keys": {}, "extractors": {}}, "at least one detector"),
    ],
)
def test_settings_that_cannot_be(
    changed: dict[str, Any], message: str, source: ImageSource, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        make(source, tmp_path / "x.safetensors", **changed)
    assert not (tmp_path / "x.safetensors.parts").exists()


def test_other_suffix(source: ImageSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        make(source, tmp_path / "x.npz")


def test_features_that_are_not_finite(source: ImageSource, tmp_path: Path) -> None:
    def broken(images: Tensor) -> dict[str, Tensor]:
        features = colour(images)["features"]
        features[1:, 2] = torch.nan
        return {"features": features}

    with pytest.raises(
        UserError, match="'colour' gives features that are not finite for 3 images: 01.png, 02.png"
    ):
        make(source, tmp_path / "x.safetensors", EXTRACTORS | {"colour": broken})


def test_features_of_odd_shape(source: ImageSource, tmp_path: Path) -> None:
    odd = {"colour": lambda images: {"features": torch.ones(3, 2)}, "projection": projection}
    with pytest.raises(UserError, match=r"'colour' gives features \[3, 2\] for 4 images; expected \[4, D\]"):
        make(source, tmp_path / "x.safetensors", odd)


def test_a_corrupt_image_can_be_replaced(source: ImageSource, tmp_path: Path) -> None:
    whole = make(source, tmp_path / "whole.safetensors")
    good = (tmp_path / "images" / "25.png").read_bytes()
    (tmp_path / "images" / "25.png").write_bytes(good[:60])
    out = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="cannot read image '25.png'"):
        make(source, out)
    assert (tmp_path / "x.safetensors.parts" / "000001.safetensors").is_file()
    (tmp_path / "images" / "25.png").write_bytes(good)
    assert make(source, out) == whole


@pytest.mark.parametrize("damage", ["truncated", "narrow", "short", "unnamed"])
def test_damaged_parts_are_named(damage: str, source: ImageSource, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(StoppedError):
        make(source, out, stopping(8))
    part = tmp_path / "x.safetensors.parts" / "000001.safetensors"
    tensors = {name: value.clone() for name, value in load_file(part).items()}
    if damage == "truncated":
        part.write_bytes(part.read_bytes()[:-9])
    elif damage == "unnamed":
        save_file({"colour": tensors["colour"]}, part)
    else:
        cut = tensors["colour"][:, :5] if damage == "narrow" else tensors["colour"][:9]
        save_file(tensors | {"colour": cut.clone()}, part)
    with pytest.raises(UserError, match=r"part file '.*000001\.safetensors'.*remove it and run"):
        make(source, out)
    part.unlink()
    assert make(source, out) == make(source, tmp_path / "whole.safetensors")


def test_a_folder_in_the_way(source: ImageSource, tmp_path: Path) -> None:
    parts = tmp_path / "x.safetensors.parts"
    parts.mkdir()
    (parts / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="is in the way"):
        make(source, tmp_path / "x.safetensors")
    assert (parts / "diary.txt").read_text() == "mine"
    (parts / "diary.txt").rename(parts / "settings.json")
    with pytest.raises(UserError, match="cannot read '.*settings.json'"):
        make(source, tmp_path / "x.safetensors")


@pytest.mark.parametrize("form", ["npy", "nchw.npy", "npz", "txt", "braces"])
def test_a_reference_of_any_form_is_that_of_the_folder(form: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    folder = tmp_path / "x-0"
    folder.mkdir()
    for index, row in enumerate(rows):
        Image.fromarray(row).save(folder / f"{index:03d}.png")
    place: Path = tmp_path / f"set.{form}"
    if form.endswith("npy"):
        np.save(place, rows if form == "npy" else rows.transpose(0, 3, 1, 2).copy())
    elif form == "npz":
        np.savez(place, rows)
    elif form == "txt":
        place.write_text("".join(f"x-0/{index:03d}.png\n" for index in range(12)))
    else:
        place = tmp_path / "x-{0..0}"
    make(open_images(folder), tmp_path / "a.safetensors")
    make(open_images(place), tmp_path / "b.safetensors")
    one, other = (read_reference(tmp_path / f"{name}.safetensors") for name in "ab")
    for name in EXTRACTORS:
        assert one[name].features is not None and other[name].features is not None
        assert torch.equal(one[name].features, other[name].features)
