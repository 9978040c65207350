"""Hostile and damaged pickles: nothing in them runs, and every failure is a UserError.

Each hostile payload is real: a test first shows that plain `pickle.loads` leaves the marker file, then that
`load_pickle` does not.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import logging
import os
import pickle
import pickletools
import random
import struct
import sys
import time
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.base.pickles import (
    CHECKPOINT_GLOBALS,
    Container,
    PersistentObject,
    UnsafePickleError,
    load_pickle,
)
from erk_bench.networks.checkpoint import read_checkpoint
from tests.conftest import golden, golden_facts, golden_path

PROTO4 = b"\x80\x04"


class Reduced:
    """Pickles as a call of `function`, followed by BUILD if there is a state."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def short_text(text: str) -> bytes:
    """The opcode SHORT_BINUNICODE with its argument."""
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def named_global(module: str, name: str) -> bytes:
    """The opcodes that push a global, protocol 4."""
    return short_text(module) + short_text(name) + b"\x93"


def touch_source(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def evil(marker: Path) -> Reduced:
    return Reduced(exec, touch_source(marker))


def reconstruct(meta: dict[str, Any]) -> Any:
    """What the published persistence module does: run the source text in the pickle."""
    exec(meta["module_src"])
    return meta


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reduced]:
    """Makes persistent objects as the published programs do; their modules exist during the test only."""
    module = types.ModuleType("torch_utils.persistence")
    function = types.FunctionType(reconstruct.__code__, globals(), "_reconstruct_persistent_obj")
    function.__module__ = module.__name__
    function.__qualname__ = function.__name__
    setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def make(state: Any, source: str = "", class_name: Any = "Precond") -> Reduced:
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
        return Reduced(function, meta)

    return make


def storage_stream(values: torch.Tensor) -> bytes:
    """A complete nested torch.save stream of one storage, as in published pickles."""
    storage = torch.storage.TypedStorage(
        wrap_storage=values.untyped_storage(), dtype=values.dtype, _internal=True
    )
    stream = io.BytesIO()
    torch.save(storage, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def stored(values: torch.Tensor) -> Reduced:
    return Reduced(torch.storage._load_from_bytes, storage_stream(values))


def tensor(values: torch.Tensor, offset: Any, size: Any, stride: Any, state: Any = None) -> Reduced:
    """A pickled tensor with whatever geometry, on a storage that holds `values`."""
    build = torch._utils._rebuild_tensor_v2
    return Reduced(build, stored(values), offset, size, stride, False, OrderedDict(), state=state)


def save(tmp_path: Path, payload: bytes) -> Path:
    path = tmp_path / "network.pkl"
    path.write_bytes(payload)
    return path


def load(tmp_path: Path, content: Any) -> Any:
    """Pickle `content` as published files are, and load it."""
    return load_pickle(save(tmp_path, pickle.dumps({"ema": content}, protocol=4)))["ema"]


def protocol_0_global(marker: Path) -> bytes:
    return b"cos\nsystem\n(S'" + f"touch {marker}".encode() + b"'\ntR."


def protocol_0_inst(marker: Path) -> bytes:
    return b"(S'" + f"touch {marker}".encode() + b"'\nios\nsystem\n."


def obj_opcode(marker: Path) -> bytes:
    # OBJ calls any class; a FileHandler opens, so creates, the file that it is given.
    return b"(clogging\nFileHandler\nS'" + str(marker).encode() + b"'\no."


def nested_stack_global(marker: Path) -> bytes:
    """posix.system, its name put together from the memo, inside a list, a tuple and a dict."""
    call = short_text(os.name) + b"\x94" + short_text("system") + b"\x94" + b"0" + b"0"
    call += b"h\x00" + b"h\x01" + b"\x93" + short_text(f"touch {marker}") + b"\x85R"
    return PROTO4 + b"}" + short_text("ema") + b"](" + call + b"\x85" + b"es."


def through_storage(marker: Path) -> bytes:
    """The bytes for torch.storage._load_from_bytes are themselves a hostile pickle."""
    return pickle.dumps({"ema": Reduced(torch.storage._load_from_bytes, pickle.dumps(evil(marker)))}, 4)


def deep_in_storage(marker: Path) -> bytes:
    """The nested stream is correct up to its fourth pickle."""
    head = b"".join(
        pickle.dumps(part, protocol=2)
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
    )
    raw = head + pickle.dumps(evil(marker), protocol=2)
    return pickle.dumps({"ema": Reduced(torch.storage._load_from_bytes, raw)}, 4)


def object_array(marker: Path) -> bytes:
    array = np.empty(1, dtype=object)
    array[0] = evil(marker)
    return pickle.dumps(array, 4)


def numpy_load(marker: Path) -> bytes:
    file = marker.with_name("inner.npy")
    array = np.empty(1, dtype=object)
    array[0] = evil(marker)
    np.save(file, array, allow_pickle=True)
    return pickle.dumps(Reduced(np.load, str(file), None, True), 4)


def torch_load(marker: Path) -> bytes:
    file = marker.with_name("inner.pt")
    torch.save(evil(marker), file)
    return pickle.dumps(Reduced(torch.load, str(file)), 4)


def reconstructor(marker: Path) -> bytes:
    """copyreg._reconstructor(class, base, state) calls base.__init__(state), which opens the file."""
    return pickle.dumps(
        Reduced(copyreg._reconstructor, logging.FileHandler, logging.FileHandler, str(marker)),  # type: ignore[attr-defined]  # private, and what a payload names
        4,
    )


def state_setter(marker: Path) -> bytes:
    """Protocol 4 with a list item and a dict value before the hostile call: order must not matter."""
    return pickle.dumps([1, {"a": OrderedDict(b=2)}, evil(marker)], 4)


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.system": (
        lambda marker: pickle.dumps(Reduced(os.system, f"touch {marker}"), 4),
        f"{os.name}.system",
    ),
    "eval": (lambda marker: pickle.dumps(Reduced(eval, touch_source(marker)), 4), "builtins.eval"),
    "exec": (lambda marker: pickle.dumps(evil(marker), 4), "builtins.exec"),
    "exec, protocol 2": (lambda marker: pickle.dumps(evil(marker), 2), "__builtin__.exec"),
    "getattr": (
        lambda marker: pickle.dumps(Reduced(getattr, evil(marker), "__class__"), 4),
        "builtins.getattr",
    ),
    "nested STACK_GLOBAL": (nested_stack_global, f"{os.name}.system"),
    "GLOBAL, protocol 0": (protocol_0_global, "os.system"),
    "INST": (protocol_0_inst, "os.system"),
    "OBJ": (obj_opcode, "logging.FileHandler"),
    "bytes of a storage": (through_storage, "builtins.exec"),
    "fourth pickle of a storage": (deep_in_storage, "__builtin__.exec"),
    "object array": (object_array, ""),
    "numpy.load": (numpy_load, "numpy.load"),
    "torch.load": (torch_load, "torch.serialization.load"),
    "copyreg._reconstructor": (reconstructor, "copyreg._reconstructor"),
    "after harmless values": (state_setter, "builtins.exec"),
}
# torch's own loader of the nested bytes stops before our magic number is checked; the others do run.
NEED_OLD_TORCH = ("bytes of a storage", "fourth pickle of a storage", "torch.load")


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickle_runs_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, forbidden = HOSTILE[kind]
    marker = tmp_path / "ran"
    payload = make(marker)
    if kind in NEED_OLD_TORCH:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with contextlib.suppress(Exception):  # many fail after the deed
        result = pickle.loads(payload)
        if isinstance(result, logging.FileHandler):
            result.close()
    assert marker.exists(), "the payload is harmless, so the test would prove nothing"
    marker.unlink()

    with pytest.raises(UnsafePickleError) as caught:
        load_pickle(save(tmp_path, payload))
    assert not marker.exists()
    assert "Nothing was run" in str(caught.value)
    if forbidden:
        assert f"names the global '{forbidden}'" in str(caught.value)
    else:
        assert "numpy dtype 'O8'" in str(caught.value)
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "network.pkl")
    assert not marker.exists()


def test_first_forbidden_global_is_named(tmp_path: Path) -> None:
    payload = pickle.dumps([Reduced(eval, "1"), Reduced(os.system, "true")], 4)
    with pytest.raises(UnsafePickleError, match=r"'builtins\.eval'") as caught:
        load_pickle(save(tmp_path, payload))
    assert "os.system" not in str(caught.value)


@pytest.mark.parametrize("name", ["fromkeys", "__init__.__call__", "__subclasses__"])
def test_attributes_of_allowed_globals_are_refused(name: str, tmp_path: Path) -> None:
    """STACK_GLOBAL may name a path of attributes; only whole names in the table count."""
    payload = PROTO4 + named_global("collections", f"OrderedDict.{name}") + b"."
    pickle.loads(payload)  # Python itself follows the path
    with pytest.raises(UnsafePickleError, match=rf"'collections\.OrderedDict\.{name}'"):
        load_pickle(save(tmp_path, payload))


@pytest.fixture
def registered_system() -> Iterator[int]:
    """An extension code that stands for os.system, as a careless program in the process may register it."""
    code = 0xF0
    copyreg.add_extension("os", "system", code)
    yield code
    copyreg.remove_extension("os", "system", code)


@pytest.mark.parametrize("opcode", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"])
def test_extension_codes_are_refused(opcode: bytes, tmp_path: Path, registered_system: int) -> None:
    """Also once the process has cached what the code stands for: then no global is looked up any more."""
    marker = tmp_path / "ran"
    payload = PROTO4 + opcode + short_text(f"touch {marker}") + b"\x85R."
    with pytest.raises(UnsafePickleError, match="extension code 240"):
        load_pickle(save(tmp_path, payload))
    assert not marker.exists()
    pickle.loads(payload)  # fills the cache
    assert marker.exists()
    marker.unlink()
    with pytest.raises(UnsafePickleError, match="extension code 240"):
        load_pickle(save(tmp_path, payload))
    assert not marker.exists()


def test_source_text_is_never_run(tmp_path: Path, publisher: Callable[..., Reduced]) -> None:
    marker = tmp_path / "ran"
    network = publisher({"training": False, "_init_kwargs": {"label_dim": 3}}, touch_source(marker))
    payload = pickle.dumps({"ema": network}, 4)
    pickle.loads(payload)
    assert marker.exists()
    marker.unlink()
    loaded = load_pickle(save(tmp_path, payload))["ema"]
    assert not marker.exists()
    assert loaded == PersistentObject("Precond", {"training": False, "_init_kwargs": {"label_dim": 3}})
    assert loaded.init_kwargs == {"label_dim": 3}


def test_hostile_value_in_the_state_of_a_network(tmp_path: Path, publisher: Callable[..., Reduced]) -> None:
    marker = tmp_path / "ran"
    inner = publisher({"_buffers": {"freqs": evil(marker)}}, class_name="MPFourier")
    payload = pickle.dumps({"ema": publisher({"_modules": OrderedDict(unet=inner)})}, 4)
    pickle.loads(payload)
    assert marker.exists()
    marker.unlink()
    with pytest.raises(UnsafePickleError, match=r"'builtins\.exec'"):
        load_pickle(save(tmp_path, payload))
    assert not marker.exists()


@pytest.mark.parametrize(
    "meta", [{}, {"type": "module"}, {"type": "class", "class_name": [1], "state": {}}, {"type": "class"}]
)
def test_odd_persistent_objects(meta: Any, tmp_path: Path, publisher: Callable[..., Reduced]) -> None:
    function = publisher({}).parts[0]
    with pytest.raises(UserError):
        load(tmp_path, Reduced(function, meta))


@pytest.mark.parametrize(
    "state",
    [
        {"_init_kwargs": 5},
        {"_init_kwargs": {1: 2}},
        {"_parameters": [1]},
        {"_buffers": {b"freqs": 1}},
        {"_modules": (1, 2)},
    ],
)
def test_a_state_without_names_is_refused(
    state: Any, tmp_path: Path, publisher: Callable[..., Reduced]
) -> None:
    with pytest.raises(UserError, match=f"'{next(iter(state))}'.*no dict of names"):
        load(tmp_path, publisher(state))


def test_what_a_published_pickle_becomes() -> None:
    content = load_pickle(golden_path("e"))
    assert list(content) == ["encoder", "dataset_kwargs", "loss_fn", "ema"]
    assert {name: content[name].class_name for name in ("encoder", "loss_fn", "ema")} == {
        "encoder": "StabilityVAEEncoder",
        "loss_fn": "EDM2Loss",
        "ema": "Precond",
    }
    facts = golden_facts("edm2_nets")["edm2_e_snapshot_fp16.pkl"]
    assert content["ema"].init_kwargs == facts["constructor_kwargs"]
    unet = content["ema"].state["_modules"]["unet"]
    assert isinstance(unet, PersistentObject)
    assert isinstance(unet.state["_modules"]["enc"], Container)
    gain = unet.state["_parameters"]["out_gain"]
    assert type(gain) is torch.Tensor
    assert gain.dtype == torch.float16
    assert content["dataset_kwargs"]["use_labels"] is True
    encoder = content["encoder"].state
    for name in ("scale", "bias"):  # numpy arrays in the file
        assert encoder[name].tolist() == golden("edm2_encoders")[f"vae.{name}"].tolist()


def test_allowed_globals_are_the_published_ones() -> None:
    published = {name for facts in golden_facts("edm2_nets").values() for name in facts["pickle"]["globals"]}
    published |= {name for facts in golden_facts("edm2_more_nets").values() for name in facts["globals"]}
    assert published <= set(CHECKPOINT_GLOBALS)
    # numpy scalars occur in the dataset options of published snapshots, not in the golden files; protocol 5
    # writes arrays in two ways.
    assert set(CHECKPOINT_GLOBALS) - published == {
        f"numpy.{core}.{name}"
        for core in ("_core", "core")
        for name in ("multiarray.scalar", "numeric._frombuffer")
    }


def test_numpy_values(tmp_path: Path) -> None:
    content = {
        "scalar": np.float64(1.5),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    loaded = load(tmp_path, content)
    assert loaded["scalar"] == 1.5
    for name in ("big", "fortran", "empty"):
        assert loaded[name].dtype == content[name].dtype
        assert np.array_equal(loaded[name], content[name])


@pytest.mark.parametrize("values", [torch.arange(6.0), torch.arange(6).half(), torch.zeros(0)])
def test_tensor_geometry_is_kept(values: torch.Tensor, tmp_path: Path) -> None:
    if len(values):
        loaded = load(tmp_path, tensor(values, 1, (2, 2), (1, 2)))
        assert torch.equal(loaded, values.as_strided((2, 2), (1, 2), 1))
    else:
        loaded = load(tmp_path, tensor(values, 0, (0, 4), (4, 1)))
        assert loaded.shape == (0, 4)
    assert loaded.dtype == values.dtype


FOUR = torch.arange(4.0)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (2,), (4,)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2**20, 2**20), (0, 0)),
        (0, (2,), (2**63,)),
    ],
)
def test_tensor_outside_its_storage(offset: int, size: Any, stride: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match="does not fit its storage of 4 elements"):
        load(tmp_path, tensor(FOUR, offset, size, stride))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (2,), (1, 1)),
        (0, (1.5,), (1,)),
        (0, "ab", "cd"),
        (0, (0, 2**70), (1, 1)),
        (2**70, (0,), (1,)),
        (0, (1,), (2**80,)),
        (0, (tensor(FOUR, 0, (4,), (1,)),), (1,)),
        (tensor(FOUR, 0, (4,), (1,)), (2,), (1,)),
        (None, (2,), (1,)),
        (0, 3, 1),
    ],
)
def test_tensor_of_nonsense(offset: Any, size: Any, stride: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load(tmp_path, tensor(FOUR, offset, size, stride))


@pytest.mark.parametrize("target", ["tensor", "storage"])
def test_a_tensor_cannot_be_enlarged_afterwards(target: str, tmp_path: Path) -> None:
    """BUILD on a torch tensor would call Tensor.__setstate__, which takes any geometry."""
    bomb = (tensor(FOUR, 0, (4,), (1,)), 0, (2**40,), (0,))
    if target == "tensor":
        hostile = tensor(FOUR, 0, (4,), (1,), state=bomb)
    else:
        hostile = Reduced(torch.storage._load_from_bytes, storage_stream(FOUR), state=bomb)
    with pytest.raises(UserError):
        load(tmp_path, hostile)


@pytest.mark.parametrize("state", [{"__call__": 1}, (None, {"_function": eval.__name__}), {"fromkeys": 1}])
@pytest.mark.parametrize("name", CHECKPOINT_GLOBALS)
def test_functions_cannot_be_altered(state: Any, name: str, tmp_path: Path) -> None:
    before = CHECKPOINT_GLOBALS[name]
    function = getattr(before, "_function", None)
    module, attribute = name.rsplit(".", 1)
    payload = PROTO4 + named_global(module, attribute) + pickle.dumps(state, 4)[2:-1] + b"b."
    with pytest.raises(UserError):
        load_pickle(save(tmp_path, payload))
    assert CHECKPOINT_GLOBALS[name] is before
    assert getattr(before, "_function", None) is function


@pytest.mark.parametrize("tenths", range(10))
@pytest.mark.parametrize("letter", "ae")
def test_truncated_file(letter: str, tenths: int, tmp_path: Path) -> None:
    raw = golden_path(letter).read_bytes()
    path = save(tmp_path, raw[: len(raw) * tenths // 10])
    with pytest.raises(UserError, match="may be truncated"):
        load_pickle(path)


def test_cut_inside_a_nested_stream(tmp_path: Path) -> None:
    """The outer pickle stays whole; the bytes of one tensor are too short or too long."""
    raw = storage_stream(torch.arange(50.0))
    for length in range(0, len(raw), 7):
        with pytest.raises(UserError):
            load(tmp_path, Reduced(torch.storage._load_from_bytes, raw[:length]))
    with pytest.raises(UnsafePickleError, match=r"208 bytes|212 bytes"):
        load(tmp_path, Reduced(torch.storage._load_from_bytes, raw + b"more"))


@pytest.mark.slow
def test_flipped_bytes(tmp_path: Path) -> None:
    """Half of the flips anywhere, half near an opcode, where they change the structure."""
    rng = random.Random(2024)
    raw = golden_path("d").read_bytes()
    opcodes = [position for _, _, position in pickletools.genops(raw)]
    loaded = refused = 0
    for index in range(200):
        damaged = bytearray(raw)
        position = rng.choice(opcodes) + rng.randrange(3) if index % 2 else rng.randrange(len(raw))
        damaged[min(position, len(raw) - 1)] ^= 1 << rng.randrange(8)
        path = save(tmp_path, bytes(damaged))
        try:
            read_checkpoint(path)
            loaded += 1
        except UserError:
            refused += 1
    assert loaded > 50 and refused > 50  # both happen, so both are tested


def test_text_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable checkpoint"):
        load_pickle(save(tmp_path, b"<!DOCTYPE html>\n<title>404 Not Found</title>\n"))


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 bytes"):
        load_pickle(save(tmp_path, b""))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read '.*absent.pkl'"):
        load_pickle(tmp_path / "absent.pkl")
    with pytest.raises(UserError, match="cannot read"):
        load_pickle(tmp_path)


@contextlib.contextmanager
def fast_and_small() -> Iterator[None]:
    """The block takes under five seconds (it should take none) and 20 MB of Python memory."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - start < 5
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with fast_and_small(), pytest.raises(UnsafePickleError, match=r"zip archive.*nothing was unpacked"):
        load_pickle(path)


def laughs(levels: int) -> bytes:
    """Lists of two references to the list before: 2**levels values in a few hundred bytes."""
    body = PROTO4 + b"]\x94"
    for index in range(levels):
        body += b"](" + b"h" + bytes([index]) + b"h" + bytes([index]) + b"e\x94"
    return body + b"."


BOMBS = {
    "memo number, LONG_BINPUT": b"\x80\x02" + b"Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "memo number, some 10 million": b"\x80\x02" + b"Nr" + struct.pack("<I", 10_000_000) + b".",
    "memo number, PUT": b"Np4000000000\n.",
    "memo number, negative": b"Np-1\n.",
    "BINBYTES8": PROTO4 + b"\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "BINUNICODE8": PROTO4 + b"\x8d" + struct.pack("<Q", 2**40) + b"abc.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "BINBYTES8, negative": PROTO4 + b"\x8e" + struct.pack("<q", -1) + b"abc.",
    "FRAME": PROTO4 + b"\x95" + struct.pack("<Q", 2**62) + b"N.",
    "LONG4": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    "deep nesting": PROTO4 + b"]" * 20_000 + b"a" * 19_999 + b".",
    "list in itself": PROTO4 + b"]\x94h\x00a.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_fails_fast(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path, BOMBS[kind])
    with fast_and_small(), pytest.raises(UserError):
        load_pickle(path)


def test_values_that_unfold_without_end(tmp_path: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(UnsafePickleError, match="unfolds into more than"):
        load_pickle(save(tmp_path, laughs(60)))
    assert time.perf_counter() - start < 10


def test_a_few_shared_lists_are_fine(tmp_path: Path) -> None:
    loaded = load_pickle(save(tmp_path, laughs(3)))
    assert loaded == [[[[], []], [[], []]], [[[], []], [[], []]]]


def test_persistent_ids_belong_to_storages(tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match="persistent ids"):
        load_pickle(save(tmp_path, b"\x80\x04" + short_text("x") + b"Q."))


def test_other_storages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match=r"'torch\.LongStorage'"):
        load(tmp_path, stored(torch.arange(4)))
