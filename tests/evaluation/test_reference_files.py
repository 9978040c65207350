"""Files of reference statistics: every published form is read, every damaged one is refused clearly."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import random
import stat
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from erk_bench.base.errors import UserError
from erk_bench.base.pickles import (
    CHECKPOINT_GLOBALS,
    STATISTICS,
    STATISTICS_GLOBALS,
    UnsafePickleError,
    load_pickle,
)
from erk_bench.evaluation.frechet import FeatureStats
from erk_bench.evaluation.reference_files import (
    FORMAT,
    Real,
    read_facts,
    read_reference,
    write_reference,
)

PROTOCOLS = (2, 3, 4, 5)


def statistics(seed: int, dim: int, dtype: str = "f8") -> dict[str, np.ndarray]:
    """Mean and covariance of random features."""
    features = np.random.default_rng(seed).normal(size=(2 * dim + 5, dim)) + seed
    return {"mu": features.mean(0).astype(dtype), "sigma": np.cov(features, rowvar=False).astype(dtype)}


def published(dim: int = 6) -> dict[str, Any]:
    """The content of a file like EDM2's img512.pkl, in small."""
    return {"num_images": np.int64(50000), "fid": statistics(1, dim), "fd_dinov2": statistics(2, dim + 1)}


def as_numpy_1(raw: bytes) -> bytes:
    """The pickle as numpy 1 writes it: its modules lay in numpy.core."""
    old = raw
    for module in ("multiarray", "numeric"):
        new_name, name = f"numpy._core.{module}".encode(), f"numpy.core.{module}".encode()
        old = old.replace(b"c" + new_name + b"\n", b"c" + name + b"\n")
        old = old.replace(bytes([0x8C, len(new_name)]) + new_name, bytes([0x8C, len(name)]) + name)
    if raw[2:3] == b"\x95":  # the first frame's length; small pickles have one
        assert int.from_bytes(raw[3:11], "little") == len(raw) - 11
        old = old[:3] + (len(old) - 11).to_bytes(8, "little") + old[11:]
    return old


def save(folder: Path, content: Any, name: str = "img512.pkl", protocol: int = 4) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def assert_same(real: Real, expected: dict[str, np.ndarray]) -> None:
    assert real.stats is not None
    assert real.stats.mean.dtype == real.stats.covariance.dtype == torch.float64
    assert np.array_equal(real.stats.mean.numpy(), expected["mu"])
    assert np.array_equal(real.stats.covariance.numpy(), expected["sigma"])


@pytest.mark.filterwarnings("ignore:numpy.core.numeric is deprecated")  # plain pickle, of numpy 1's spelling
@pytest.mark.parametrize("numpy_version", [1, 2])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_published_pickle(protocol: int, numpy_version: int, tmp_path: Path) -> None:
    content = published()
    raw = pickle.dumps(content, protocol)
    if numpy_version == 1:
        assert as_numpy_1(raw) != raw
        raw = as_numpy_1(raw)
        assert np.array_equal(pickle.loads(raw)["fid"]["sigma"], content["fid"]["sigma"])
    reals = read_reference(save(tmp_path, raw))
    assert list(reals) == ["inception", "dinov2_torch"]
    assert_same(reals["inception"], content["fid"])
    assert_same(reals["dinov2_torch"], content["fd_dinov2"])
    assert reals["inception"].features is None
    assert read_facts(tmp_path / "img512.pkl") == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda a: a[::2, ::2], lambda a: a.astype("f4"), lambda a: a.astype(">f8")]
)
def test_arrays_of_any_layout(
    layout: Callable[[np.ndarray], np.ndarray], protocol: int, tmp_path: Path
) -> None:
    sigma = layout(statistics(3, 8)["sigma"])
    entry = {"mu": sigma[0].copy(), "sigma": sigma}
    assert_same(read_reference(save(tmp_path, {"fid": entry}, protocol=protocol))["inception"], entry)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_transposed_and_large_arrays(protocol: int, tmp_path: Path) -> None:
    """Beyond 64 kB the values lie outside the frames; a permutation of axes is written as order K."""
    large = statistics(4, 300)
    cube = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    path = save(tmp_path, {"fid": large, "other": cube, "fd_dinov2": statistics(5, 3)}, protocol=protocol)
    assert_same(read_reference(path)["inception"], large)
    assert np.array_equal(load_pickle(path, STATISTICS)["other"], cube)


def test_one_of_the_two_is_enough_and_dicts_may_be_easy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("dnnlib.util")
    easy_dict = type("EasyDict", (dict,), {"__module__": module.__name__})
    vars(module)["EasyDict"] = easy_dict
    monkeypatch.setitem(sys.modules, "dnnlib", types.ModuleType("dnnlib"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    content = easy_dict(fd_dinov2=OrderedDict(statistics(2, 4)))
    reals = read_reference(save(tmp_path, content))
    assert list(reals) == ["dinov2_torch"]
    assert_same(reals["dinov2_torch"], content["fd_dinov2"])


class Reduced:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.parts = (function, args)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hostile_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    raw = pickle.dumps({"fid": Reduced(os.system, f"touch {marker}")}, protocol)
    pickle.loads(raw)
    assert marker.exists(), "the payload is harmless, so the test would prove nothing"
    marker.unlink()
    with pytest.raises(UnsafePickleError, match=rf"names the global '{os.name}\.system'.*Nothing was run"):
        read_reference(save(tmp_path, raw))
    assert not marker.exists()


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    array = np.empty(1, dtype=object)
    array[0] = Reduced(os.system, f"touch {marker}")
    with pytest.raises(UnsafePickleError):
        read_reference(save(tmp_path, {"fid": {"mu": array, "sigma": np.eye(1)}}))
    path = tmp_path / "hostile.npz"
    np.savez(path, mu=array, sigma=np.eye(1))
    with pytest.raises(UserError, match="no readable .npz"):
        read_reference(path)
    assert not marker.exists()


def test_the_tables_of_globals_are_closed() -> None:
    """Statistics name numpy's globals and plain dicts, as checkpoints do beside others; never torch."""
    assert set(STATISTICS_GLOBALS) < set(CHECKPOINT_GLOBALS)
    assert not [name for name in STATISTICS_GLOBALS if name.startswith("torch")]


@pytest.mark.parametrize("encoding", ["utf-16", "idna", "rot13", 5])
def test_only_latin1_bytes_are_encoded(encoding: Any, tmp_path: Path) -> None:
    import _codecs

    raw = pickle.dumps({"fid": Reduced(_codecs.encode, "abc", encoding)}, 2)
    with pytest.raises(UnsafePickleError, match="encodes text as"):
        read_reference(save(tmp_path, raw))


@pytest.mark.parametrize(
    "arguments",
    [
        (b"12345678", np.dtype("f8"), (2,), "C"),
        (b"12345678", np.dtype("f8"), (2**40,), "C"),
        (b"1234567", np.dtype("f8"), (1,), "C"),
        ("12345678", np.dtype("f8"), (1,), "C"),
        (b"12345678", np.dtype("f8"), (1,), "K", (3,)),
        (b"12345678", np.dtype("f8"), (1,), "K", "x"),
        (b"12345678", 5, (1,), "C"),
        (b"12345678",),
    ],
)
def test_buffers_of_nonsense(arguments: Any, tmp_path: Path) -> None:
    from numpy._core.numeric import _frombuffer

    with pytest.raises(UserError, match="img512.pkl"):
        read_reference(save(tmp_path, {"fid": {"mu": Reduced(_frombuffer, *arguments), "sigma": 1}}))


def write_form(folder: Path, form: str) -> Path:
    """A good file of each form."""
    path = folder / f"reference{form}"
    if form == ".pkl":
        return save(folder, published(), path.name)
    if form == ".npz":
        np.savez(path, **statistics(1, 6))
    else:
        write_reference(path, {"inception": real_of(1, 6, features=9)}, {"num_images": 9})
    return path


def real_of(seed: int, dim: int, features: int = 0) -> Real:
    values = statistics(seed, dim)
    stats = FeatureStats(torch.from_numpy(values["mu"]), torch.from_numpy(values["sigma"]))
    generator = torch.Generator().manual_seed(seed)
    return Real(stats, torch.randn(features, dim, generator=generator) if features else None)


FORMS = (".pkl", ".npz", ".safetensors")


@pytest.mark.parametrize("form", FORMS)
def test_missing_and_folders(form: str, tmp_path: Path) -> None:
    for function in (read_reference, read_facts):
        with pytest.raises(UserError, match=f"'{tmp_path}/none{form}' does not exist"):
            function(tmp_path / f"none{form}")
        (tmp_path / f"folder{form}").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is a folder"):
            function(tmp_path / f"folder{form}")


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in '\.txt'; give a \.pkl, \.npz, \.safetensors"):
        read_reference(save(tmp_path, b"", "stats.txt"))


@pytest.mark.parametrize("tenths", range(10))
@pytest.mark.parametrize("form", FORMS)
def test_truncated_file(form: str, tenths: int, tmp_path: Path) -> None:
    path = write_form(tmp_path, form)
    read_reference(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * tenths // 10])
    with pytest.raises(UserError, match=f"reference{form}' is no readable.*truncated"):
        read_reference(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools, of the damaged bytes
@pytest.mark.parametrize("form", FORMS)
def test_flipped_bytes_end_in_values_or_one_error(form: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    path = write_form(tmp_path, form)
    raw = path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read_reference(path)
        except UserError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"\x00" * 50, b"no pickle at all"])
@pytest.mark.parametrize("form", FORMS)
def test_files_of_another_kind(form: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference.* is (no|a zip)"):
        read_reference(save(tmp_path, content, f"reference{form}"))


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.eye(3))
    with pytest.raises(UserError, match="a single array"):
        read_reference(save(tmp_path, buffer.getvalue(), "x.npz"))


def test_npz(tmp_path: Path) -> None:
    values = statistics(1, 6)
    np.savez(tmp_path / "plain.npz", **values)
    np.savez_compressed(tmp_path / "adm.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), **values)
    for name in ("plain.npz", "adm.npz"):
        reals = read_reference(tmp_path / name)
        assert list(reals) == ["inception"]
        assert_same(reals["inception"], values)
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(UserError, match="holds weights; expected mu and sigma, features .* or images"):
        read_reference(tmp_path / "other.npz")


def npz_of(path: Path, sigma_header: bytes, num_bytes: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A good mu beside a sigma of this header and so many zeros."""
    mu = io.BytesIO()
    np.save(mu, np.zeros(4))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("mu.npy", mu.getvalue())
        with archive.open("sigma.npy", "w") as member:
            member.write(sigma_header)
            for _ in range(num_bytes // 1_000_000):
                member.write(bytes(1_000_000))
    return path


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("header", "num_bytes"),
    [
        (npy_header("(25000, 25000)"), 20_000_000),
        (npy_header("(4, 4)"), 20_000_000),  # more than it says
        (npy_header("(1000, 1000)"), 0),  # less than it says
        (npy_header("(2**40, 2**40)"), 0),
        (npy_header("(99999999999, 99999999999)"), 0),
        (npy_header("(4, 4)", "|O"), 0),
        (npy_header("(4, 4)", "<U9999999"), 0),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", 20_000_000),  # a header of 4 GB
        (b"\x93NUMPY\x09\x00\x10\x00", 1_000_000),
    ],
)
def test_an_npz_that_expands(header: bytes, num_bytes: int, tmp_path: Path) -> None:
    path = npz_of(tmp_path / "bomb.npz", header, num_bytes)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="no readable .npz file"):
            read_reference(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_an_npz_compressed_as_numpy_never_does(tmp_path: Path) -> None:
    path = npz_of(tmp_path / "lzma.npz", npy_header("(4, 4)") + bytes(128), 0, zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="compressed in a way"):
        read_reference(path)


def test_statistics_that_are_too_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erk_bench.evaluation.real.MAX_DIM", 2)
    for path in (write_form(tmp_path, form) for form in FORMS):
        with pytest.raises(UserError, match=r"has shape \[6(, 6)?\]"):
            read_reference(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds: list"),
        ({"fd": 1, "kid": 2}, "holds none of the statistics fid, fd_dinov2; it holds: fd, kid"),
        ({"fid": {"mu": 1}}, "'fid' holds mu; expected mu and sigma"),
        ({"fid": 3.0}, "'fid' holds float; expected mu and sigma"),
        ({"fid": {"mu": [1.0], "sigma": np.eye(1)}}, "the mean is list; expected an array of numbers"),
    ],
)
def test_pickles_of_other_content(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_reference(save(tmp_path, content))


GOOD = statistics(1, 3)
SKEWED = GOOD["sigma"] + np.array([[0, 1e-5, 0], [0, 0, 0], [0, 0, 0]]) * np.abs(GOOD["sigma"]).max()
BAD_STATISTICS = {
    "mean of two dimensions": (np.ones((3, 1)), GOOD["sigma"], r"shapes \[3, 1\] and \[3, 3\]"),
    "no dimension": (np.float64(1) * np.ones(()), GOOD["sigma"], r"shapes \[\] and \[3, 3\]"),
    "nothing": (np.ones(0), np.ones((0, 0)), r"shapes \[0\] and \[0, 0\]"),
    "not square": (GOOD["mu"], GOOD["sigma"][:2], r"shapes \[3\] and \[2, 3\]"),
    "other width": (GOOD["mu"][:2], GOOD["sigma"], r"shapes \[2\] and \[3, 3\]"),
    "NaN": (np.array([1, np.nan, 0]), GOOD["sigma"], "1 values of the mean are not finite"),
    "infinite": (GOOD["mu"], GOOD["sigma"] * np.inf, "9 values of the covariance are not finite"),
    "asymmetric": (GOOD["mu"], SKEWED, "covariance is not symmetric"),
    "complex": (GOOD["mu"] * 1j, GOOD["sigma"], "mean is complex128"),
    "text": (np.array(["a"] * 3), GOOD["sigma"], "mean is <U1"),
}


@pytest.mark.parametrize("name", BAD_STATISTICS)
def test_statistics_that_make_no_sense(name: str, tmp_path: Path) -> None:
    mu, sigma, message = BAD_STATISTICS[name]
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=rf"bad\.npz': .*{message}.*download it again"):
        read_reference(tmp_path / "bad.npz")


def test_asymmetry_of_rounding_is_accepted(tmp_path: Path) -> None:
    np.savez(tmp_path / "ok.npz", mu=GOOD["mu"], sigma=GOOD["sigma"] + (SKEWED - GOOD["sigma"]) * 0.09)
    assert len(read_reference(tmp_path / "ok.npz")) == 1


def test_our_own_format(tmp_path: Path) -> None:
    reals = {"vgg16": real_of(1, 5, features=11), "inception": real_of(2, 3)}
    facts = {"num_images": 11, "detectors": {"vgg16": "vgg16-abc"}, "resolution": 64}
    path = tmp_path / "folder" / "real.safetensors"
    write_reference(path, reals, facts)
    loaded = read_reference(path)
    assert sorted(loaded) == ["inception", "vgg16"]
    for name, real in reals.items():
        found = loaded[name]
        assert found.stats is not None and real.stats is not None
        assert torch.equal(found.stats.mean, real.stats.mean)
        assert torch.equal(found.stats.covariance, real.stats.covariance)
    assert loaded["inception"].features is None
    assert loaded["vgg16"].features is not None and reals["vgg16"].features is not None
    assert torch.equal(loaded["vgg16"].features, reals["vgg16"].features)
    assert read_facts(path) == facts
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    # Another reader of the format agrees, and finds one metadata key with sorted content.
    tensors = load_file(path)
    assert {name: value.dtype for name, value in tensors.items()} == {
        "inception.covariance": torch.float64,
        "inception.mean": torch.float64,
        "vgg16.covariance": torch.float64,
        "vgg16.features": torch.float32,
        "vgg16.mean": torch.float64,
    }
    assert torch.equal(tensors["vgg16.features"], reals["vgg16"].features)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {"erk_bench": json.dumps({"format": FORMAT, **facts}, sort_keys=True)}


def test_same_content_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    a, b = real_of(1, 5, features=7), real_of(2, 3)
    write_reference(first, {"a": a, "b": b}, {"x": 1, "y": 2})
    write_reference(second, {"b": b, "a": a}, {"y": 2, "x": 1})
    assert first.read_bytes() == second.read_bytes()


def test_colleagues_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "real.safetensors"
    before = os.umask(0o022)
    try:
        write_reference(path, {"a": real_of(1, 2)}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_any_tensor_may_be_given(tmp_path: Path) -> None:
    """Transposed, of another precision, with gradients."""
    sigma = torch.from_numpy(GOOD["sigma"]).float()
    features = torch.arange(12.0, requires_grad=True).reshape(3, 4).T
    real = Real(FeatureStats(torch.ones(3).half(), sigma.T), features)
    write_reference(tmp_path / "x.safetensors", {"a": real}, {})
    found = read_reference(tmp_path / "x.safetensors")["a"]
    assert found.stats is not None and found.features is not None
    assert torch.equal(found.stats.covariance, sigma.double())
    assert torch.equal(found.features, features)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        write_reference(tmp_path / "x.npz", {"a": real_of(1, 2)}, {})
    with pytest.raises(UserError, match="'a' has no statistics to write"):
        write_reference(tmp_path / "x.safetensors", {"a": Real(None, torch.ones(3, 2))}, {})
    assert not list(tmp_path.iterdir())


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "real.safetensors"
    write_reference(path, {"a": real_of(1, 2)}, {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk full while writing"):
        write_reference(path, {"a": real_of(2, 2)}, {})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


MEAN, SIGMA = torch.from_numpy(GOOD["mu"]), torch.from_numpy(GOOD["sigma"])
FEATURES = torch.ones(5, 3)
BAD_TENSORS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "nothing": ({}, "holds no detector's statistics"),
    "no covariance": ({"a.mean": MEAN}, "'a' has the tensors mean; expected mean, covariance"),
    "unknown part": (
        {"a.mean": MEAN, "a.covariance": SIGMA, "a.x": FEATURES},
        "'a' has the tensors covariance, mean, x",
    ),
    "no detector": ({"mean": MEAN, "covariance": SIGMA}, "'' has the tensors"),
    "bad statistics": ({"a.mean": MEAN[:2], "a.covariance": SIGMA}, r"\[2\] and \[3, 3\]"),
    "narrow features": (
        {"a.mean": MEAN, "a.covariance": SIGMA, "a.features": FEATURES[:, :2].clone()},
        r"torch.float32 \[5, 2\]; expected torch.float32 \[N, 3\]",
    ),
    "double features": (
        {"a.mean": MEAN, "a.covariance": SIGMA, "a.features": FEATURES.double()},
        r"torch.float64 \[5, 3\]; expected torch.float32",
    ),
    "one NaN": (
        {"a.mean": MEAN, "a.covariance": SIGMA, "a.features": FEATURES / (torch.arange(15).view(5, 3) != 7)},
        "features are not finite",
    ),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_references_that_make_no_sense(name: str, tmp_path: Path) -> None:
    tensors, message = BAD_TENSORS[name]
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path, {"erk_bench": json.dumps({"format": FORMAT})})
    with pytest.raises(UserError, match=rf"reference '.*bad\.safetensors'.*{message}"):
        read_reference(path)


@pytest.mark.parametrize(
    "text", ["null", "[]", "{}", '{"format": "erk-bench checkpoint 1"}', "not json", None]
)
def test_safetensors_of_another_kind(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a.mean": MEAN}, path, None if text is None else {"erk_bench": text})
    for function in (read_reference, read_facts):
        with pytest.raises(UserError, match="other.safetensors' is no "):
            function(path)
