"""Pickles that would crash the interpreter, hash without end or fill the memory, and changed golden ones."""

from __future__ import annotations

import pickle
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erk_bench.base.errors import UserError
from erk_bench.base.pickle_machine import MAX_OPERATIONS
from erk_bench.base.pickles import load_pickle
from erk_bench.base.state_dicts import read_state_dict
from erk_bench.networks.checkpoint import read_checkpoint
from tests.conftest import DATA, golden_path

PROTO = b"\x80\x04"
SHARED = b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60))  # pairs of the pair before
DEEP = b")" + b"\x85" * 60_000  # a tuple in a tuple ...


def encoded(text: bytes) -> bytes:
    return b"c_codecs\nencode\n" + text


BOMBS = {
    "deep tuple as key": PROTO + b"}" + DEEP + b"Ns.",
    "deep tuple in a set": PROTO + b"\x8f(" + DEEP + b"\x90.",
    "deep tuple in a frozen set": PROTO + b"(" + DEEP + b"\x91.",
    "deep tuple in a called set": PROTO + b"cbuiltins\nset\n](" + DEEP + b"e\x85R.",
    "deep tuple in an ordered dict": PROTO + b"ccollections\nOrderedDict\n](" + DEEP + b"N\x86e\x85R.",
    "shared tuples as key": PROTO + b"}" + SHARED + b"Ns.",
    "shared tuples in a set": PROTO + b"\x8f(" + SHARED + b"\x90.",
    "shared tuples as encoding": PROTO + encoded(b"\x8c\x01a" + SHARED + b"\x86R."),
    "shared tuples as value": PROTO + SHARED + b".",
    "deep value": PROTO + DEEP + b".",
    "deep lists": PROTO + b"]" * 60_000 + b"a" * 59_999 + b".",
    "deep persistent id": PROTO + DEEP + b"Q.",
    "list in itself": PROTO + b"]\x94h\x00a.",
    "dict in itself": PROTO + b"}\x94\x8c\x01ah\x00s.",
    "tuple round a list": PROTO + b"]\x94h\x00\x85a.",
    "text encoded again and again": (
        PROTO + b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94\x8c\x06latin1\x94"
        + b"c_codecs\nencode\n\x94(" + b"h\x02h\x00h\x01\x86R" * 50_000 + b"l."
    ),
    "bytes listed again and again": (
        PROTO + b"B" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94(" + b"h\x00" * 50_000 + b"l."
    ),
    "integers of one hash": (
        PROTO + b"}("
        + b"".join(b"\x8a\x10%bN" % (i * (2**61 - 1)).to_bytes(16, "little") for i in range(1, 9)) + b"u."
    ),
    "too many operations": PROTO + b"\x8f0" * MAX_OPERATIONS + b"N.",
    "LONG1 of 255 bytes": PROTO + b"\x8a\xff" + b"a" * 255 + b".",
    "negative length": PROTO + b"T" + struct.pack("<i", -5) + b"abc.",
    "endless line": b"I" + b"1" * 100_000 + b"\n.",
    "next buffer": b"\x80\x05\x97.",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(BOMBS) - {"too many operations"}))
def test_bomb_ends_in_one_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(BOMBS[name])
    with pytest.raises(UserError) as caught:
        load_pickle(tmp_path / "x.pkl")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("name", [name for name in BOMBS if "key" in name or "set" in name or "dict" in name])
def test_bomb_of_weights_ends_in_one_error(name: str, archive: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    if archive:  # inside torch's own kind of file
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", BOMBS[name])
            file.writestr("archive/version", "3")
    else:
        path.write_bytes(BOMBS[name])
    with pytest.raises(UserError, match="no safe weight file"):
        read_state_dict(path)


@pytest.mark.parametrize("id_", [DEEP + b"Q", b"(" + DEEP + b"tQ", SHARED + b"\x85Q"])
def test_storage_ids_that_hash_without_end(id_: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(PROTO + id_ + b".")
    with pytest.raises(UserError, match="no safe weight file"):
        read_state_dict(tmp_path / "x.pth")


def limit() -> None:
    """A minute of computing, four gigabytes of data, no core file."""
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 10**9, 4 * 10**9))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


MANY = """
import resource, sys, time
from pathlib import Path
from erk_bench.base.errors import UserError
from erk_bench.base.pickles import load_pickle
from erk_bench.base.state_dicts import read_state_dict

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    start = time.process_time()
    try:
        (read_state_dict if path.suffix == ".pth" else load_pickle)(path)
        print("loaded", path.name)
    except UserError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 4000, path
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    if seconds > 15 or grown > 300:
        print("slow or large", path.stem, seconds, grown)
print("done")
"""


@pytest.mark.slow
def test_bombs_under_limits_of_memory_and_time(tmp_path: Path) -> None:
    """In a process of its own; it prints which took long or much."""
    for name, payload in BOMBS.items():
        (tmp_path / f"{name}.pkl").write_bytes(payload)
        (tmp_path / f"{name}.pth").write_bytes(payload)
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", MANY, *files], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


def test_an_archive_of_weights_that_expands(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1_000_000)}, path)
    assert read_state_dict(path)["w"].shape == (1_000_000,)
    with (
        zipfile.ZipFile(path) as good,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for member in good.infolist():
            bad.writestr(member.filename, good.read(member))
    with pytest.raises(UserError, match="it expands to more than its own size"):
        read_state_dict(tmp_path / "bomb.pth")


def test_weights_of_older_torch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert read_state_dict(path)["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    content = {
        "ints": [0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**70), True, False],
        "floats": (1.5, -0.0, float("inf")),
        "texts": ["", "é\n", "a" * 300],
        "none": None,
        "nested": [{"a": (1, (2, [3]))}, {}],
        7: "number",
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    assert load_pickle(path) == content


def test_sets_and_bytes(tmp_path: Path) -> None:
    content = {"set": {"a", 1}, "bytes": b"\x00\xff" * 200}
    for protocol in (2, 3, 4, 5):
        path = tmp_path / "x.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        assert load_pickle(path) == content


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "x.pkl")
    with pytest.raises(UserError, match="no regular file"):
        load_pickle(tmp_path / "x.pkl")


def originals() -> list[bytes]:
    """Small golden pickles of protocols 2 to 5."""
    with np.load(DATA / "edm2_more_pickles.npz") as archive:
        more = [archive[name].tobytes() for name in archive if archive[name].nbytes < 2_000_000]
    return [golden_path("d").read_bytes(), golden_path("e").read_bytes(), *more]


ORIGINALS = originals()
EDIT = st.tuples(
    st.floats(0, 1, exclude_max=True),  # where
    st.sampled_from(["flip", "insert", "delete", "copy"]),
    st.binary(min_size=1, max_size=6)
    | st.sampled_from([b"\x85" * 200, b"\x94h\x00", b"}s", b"R", b"b", b"\x8f\x90"]),
)


def changed(raw: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    out = bytearray(raw)
    for share, kind, data in edits:
        # Half of the edits fall into the first tenth, where most of the structure is.
        place = int((share * 0.2 if share < 0.5 else share) * len(out))
        if kind == "flip":
            out[place : place + len(data)] = bytes(a ^ b for a, b in zip(out[place:], data, strict=False))
        elif kind == "insert":
            out[place:place] = data
        elif kind == "delete":
            del out[place : place + len(data)]
        else:
            out[place:place] = out[place // 2 : place // 2 + 40]
    return bytes(out)


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(which=st.integers(0, len(ORIGINALS) - 1), edits=st.lists(EDIT, min_size=1, max_size=4))
def test_changed_pickles_load_or_end_in_one_error(which: int, edits: list[tuple[float, str, bytes]]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        file.write(changed(ORIGINALS[which], edits))
        file.flush()
        try:
            read_checkpoint(Path(file.name))
        except UserError as error:
            assert str(error).isprintable()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.sampled_from([bytes([code]) for code in b"()]}NKaesutlbR0123.Q\x85\x86\x87\x8f\x90\x91\x94"])
        | st.binary(max_size=3)
    )
)
def test_random_operations_load_or_end_in_one_error(parts: list[bytes]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        file.write(PROTO + b"".join(parts) + b".")
        file.flush()
        try:
            load_pickle(Path(file.name))
        except UserError as error:
            assert str(error).isprintable()
