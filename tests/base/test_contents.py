"""What fetched files are told apart by."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from erk_bench.base.contents import content_problem
from tests.conftest import DATA


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, mu=np.zeros(3), sigma=np.eye(3))
    return buffer.getvalue()


def torch_file(*, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def statistics(protocol: int) -> bytes:
    return pickle.dumps({"fid": {"mu": np.zeros(3), "sigma": np.eye(3)}}, protocol=protocol)


SAFETENSORS = safetensors_bytes({"a": torch.zeros(100)})
GOOD = {
    "a.npz": npz(),
    "new.pth": torch_file(legacy=False),
    "old.pth": torch_file(legacy=True),
    "a.safetensors": SAFETENSORS,
    "two.pkl": statistics(2),
    "four.pkl": statistics(4),
    "five.pkl": statistics(5),
    "config.json": json.dumps({"_class_name": "AutoencoderKL"}).encode(),
    "index": SAFETENSORS,
    "download": statistics(4),
    "weights.bin": torch_file(legacy=False),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(GOOD[name])
    assert content_problem(name, tmp_path / "part") == ""


@pytest.mark.parametrize("path", sorted(DATA.glob("*.pkl")), ids=lambda path: path.name)
def test_published_formats(path: Path) -> None:
    assert content_problem(path.name, path) == ""


@pytest.mark.parametrize("name", [name for name in GOOD if name != "config.json"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_truncated_files(name: str, share: float, tmp_path: Path) -> None:
    whole = GOOD[name]
    (tmp_path / "part").write_bytes(whole[: int(len(whole) * share)])
    assert content_problem(name, tmp_path / "part")


JUNK = {
    "nothing": (b"", "is empty"),
    "login": (b"<!DOCTYPE html><html><body>Please log in</body></html>", "is an HTML or XML page"),
    "login with space": (b"\xef\xbb\xbf \r\n<html>", "is an HTML or XML page"),
    "latin-1 page": (b"<html><title>Acc\xe8s refus\xe9 \xe9\xe9\xe9", "is an HTML or XML page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an HTML or XML page"),
    "json": (b'{"error": "Invalid credentials"}', "is a JSON text, perhaps an error"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a Git LFS pointer",
    ),
    "words": (b"Access denied", "is a text: 'Access denied'"),
    "zeros": (bytes(10_000), "is no whole"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(1000), "is no whole"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "is no whole"),
}


@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.parametrize("name", ["a.pkl", "a.safetensors", "a.npz", "a.pth", "index"])
def test_junk(kind: str, name: str, tmp_path: Path) -> None:
    data, told = JUNK[kind]
    (tmp_path / "part").write_bytes(data)
    problem = content_problem(name, tmp_path / "part")
    assert problem.startswith(told), problem


@pytest.mark.parametrize("name", ["a.pkl", "a.safetensors", "a.npz", "a.pth"])
def test_files_of_another_kind(name: str, tmp_path: Path) -> None:
    for other, data in GOOD.items():
        same = Path(other).suffix == Path(name).suffix
        if same or (name == "a.safetensors" and other == "index"):
            continue
        (tmp_path / "part").write_bytes(data)
        if not (name == "a.pkl" and other == "download") and not (name == "a.pth" and other == "weights.bin"):
            assert content_problem(name, tmp_path / "part"), other


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b'{"error": "x", "_class_name": "y"}',
        b"{",
        b"<html>",
        b"",
        b'{"a":' * 50_000,
        b"nonsense",
    ],
    ids=["list", "empty", "error", "cut", "page", "nothing", "deep", "words"],
)
def test_settings(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(data)
    assert content_problem("config.json", tmp_path / "part")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch RAN",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_that_name_other_things(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part").write_bytes(pickle.dumps({"ema": Evil()}, protocol=protocol))
    assert content_problem("a.pkl", tmp_path / "part").startswith("names 'posix.system'")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (pickle.dumps({"error": "log in"}, protocol=4), "a pickle without a network or an array"),
        (statistics(4) + b"more", "has 4 bytes after the end"),
        (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x", "is no whole pickle"),
        (b"\x80\x04X" + (2**31).to_bytes(4, "little") + b"x", "is no whole pickle"),
        (b"\x80\x02c" + b"x" * 1_000_000, "is no whole pickle"),
        (b"\x80\x02\x82\x01.", "uses the operation EXT1"),
    ],
    ids=["text", "longer", "claims 2^62 bytes", "claims 2 GB", "endless line", "extension code"],
)
def test_strange_pickles(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(data)
    assert told in content_problem("a.pkl", tmp_path / "part")


def test_archives_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "part", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "has no '.npy'" in content_problem("a.npz", tmp_path / "part")
    assert "has no 'data.pkl'" in content_problem("a.pth", tmp_path / "part")
