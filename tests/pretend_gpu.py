"""A pretended GPU: tensors say cuda:0, hold numbers in host memory, and obey a GPU's rules about devices.

What it shows without a GPU: that devices mix (it raises as CUDA would), and where the host waits for the GPU,
which then runs dry: values read back, copies either way, indices that only the GPU knows. What it cannot
show: speed, the rounding of real kernels, memory.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

ROOT = Path(__file__).resolve().parents[1]
CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

# Operations whose result's shape or value the host must know.
READ_BACK = {
    aten._local_scalar_dense.default: "value read",
    aten.is_nonzero.default: "value read",
    aten.equal.default: "value read",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "mask as an index",
    aten.unique_dim.default: "unique",
    aten._unique2.default: "unique",
    aten.repeat_interleave.Tensor: "repeats that the GPU holds",
}
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip
# Compound operations whose parts ask for a GPU's kernels.
WHOLE = {aten._batch_norm_impl_index.default, aten.scaled_dot_product_attention.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class Wait(NamedTuple):
    """Why the host waits for the GPU, and where in the code."""

    kind: str
    place: str


class GpuTensor(Tensor):
    """A tensor that says it lies on the GPU; `held` has its numbers in host memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=CUDA, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"GpuTensor({self.held})"

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        assert PretendGpu.current is not None, "a pretended GPU's tensor outlived it"
        return PretendGpu.current.call(func, args, kwargs or {})


class _Generator(torch.Generator):
    """A generator of either device; both draw the CPU's numbers."""

    places: ClassVar[dict[int, str]] = {}  # device type by address: torch hands on other Python objects

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls, "cpu")
        cls.places[made._cdata] = torch.device(device).type
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Nothing is left to do."""

    @property
    def device(self) -> torch.device:
        return CUDA if self.places[self._cdata] == "cuda" else torch.device("cpu")


class _Event:
    """Waits for the copies that were begun before it was recorded."""

    def __init__(self, *_: object, **__: object) -> None:
        self._copies: list[Callable[[], None]] = []

    def record(self, *_: object) -> None:
        assert PretendGpu.current is not None
        self._copies = PretendGpu.current.copies

    def synchronize(self) -> None:
        while self._copies:
            self._copies.pop(0)()


class _Mode(TorchDispatchMode):
    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._gpu.call(func, args, kwargs or {})


class PretendGpu:
    """waits: of the thread that made it, in order. calls: operations on the GPU, of all threads.

    A copy to pinned memory that does not block arrives when its event is waited for, as late as on a GPU.
    """

    current: PretendGpu | None = None

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.calls = 0
        self.copies: list[Callable[[], None]] = []
        self._thread = threading.get_ident()

    def counted(self) -> Counter[Wait]:
        """How often each wait happened."""
        return Counter(self.waits)

    @contextlib.contextmanager
    def watch(self) -> Iterator[list[Wait]]:
        """The waits inside the block."""
        before, self.waits = self.waits, []
        try:
            yield self.waits
        finally:
            self.waits = before + self.waits

    def mode(self) -> TorchDispatchMode:
        """What a thread must be in to use the GPU."""
        return _Mode(self)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation of torch."""
        if _is_compound(func) and func not in WHOLE:
            with self.mode():  # inference mode hands over compound operations whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        tensors = [leaf for leaf in _leaves((*args, *kwargs.values())) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
        device = kwargs.get("device")
        on_gpu = bool(here) if device is None else torch.device(device).type == "cuda"
        self.calls += on_gpu
        _check_devices(func, args, kwargs, tensors, on_gpu)
        if func in READ_BACK and here:
            self._wait(READ_BACK[func])
        if func in INDEXING:
            self._note_indices(args)
        if func in COPIES:
            target = on_gpu if func is aten._to_copy.default else isinstance(args[0], GpuTensor)
            late = self._copied(func, args, kwargs, target)
            if late is not None:
                return late
            on_gpu = target
        return self._computed(func, args, kwargs, on_gpu)

    def _computed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], on_gpu: bool) -> Any:
        """The operation on what the tensors hold; results that it made lie on the GPU or not."""
        real = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        if real.get("device") is not None:
            real["device"] = torch.device("cpu") if on_gpu else real["device"]
        with _disable_current_modes():
            out = func(*_mapped(_held, args), **{name: _mapped(_held, value) for name, value in real.items()})
        written, view = _written_and_view(func)
        if written is not None:
            index, name = written
            return args[index] if index < len(args) else kwargs.get(name)
        # As in torch, a view of a tensor from outside of inference mode is none of inference mode either.
        with torch.inference_mode(
            torch.is_inference_mode_enabled() and not (view and not args[0].is_inference())
        ):
            if on_gpu:
                out = _mapped(lambda item: GpuTensor(item) if isinstance(item, Tensor) else item, out)
        if kwargs.get("pin_memory"):
            out.pinned = True
        return out

    def _note_indices(self, args: tuple[Any, ...]) -> None:
        for index in _leaves(args[1]):
            if isinstance(index, Tensor) and isinstance(args[0], GpuTensor):
                if index.dtype in (torch.bool, torch.uint8):
                    self._wait("mask as an index")
                elif not isinstance(index, GpuTensor):
                    self._wait("copy to the GPU")

    def _copied(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], to_gpu: bool
    ) -> Tensor | None:
        """Note a copy between devices. Returns its target if it arrives later."""
        source = args[0] if func is aten._to_copy.default else args[1]
        if isinstance(source, GpuTensor) == to_gpu:
            return None
        beside = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
        pinned = source if to_gpu else args[0]
        if not (beside and getattr(pinned, "pinned", False)):
            self._wait("copy to the GPU" if to_gpu else "copy to the host")
        elif not to_gpu:
            target, value = args[0], source.held.clone()
            with _disable_current_modes():
                target.zero_()  # what is read too early is wrong
            self.copies.append(lambda: _arrive(target, value))
            return target
        return None

    def _wait(self, kind: str) -> None:
        if threading.get_ident() == self._thread:
            self.waits.append(Wait(kind, _place()))


# Facts of an operation, asked for at every call.


@functools.cache
def _is_compound(func: Any) -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


@functools.cache
def _written_and_view(func: Any) -> tuple[tuple[int, str] | None, bool]:
    """Place and name of the argument that is written and returned, if any; whether a view is returned."""
    written = [
        (index, item.name)
        for index, item in enumerate(func._schema.arguments)
        if item.alias_info is not None and item.alias_info.is_write
    ]
    view = any(item.alias_info is not None for item in func._schema.returns)
    return written[0] if written and len(func._schema.returns) == 1 else None, view


def _leaves(value: Any) -> Iterator[Any]:
    """What lists and tuples hold; torch's own walk takes longer than the operation."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(change, item) for item in value])
    return change(value)


def _check_devices(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], on_gpu: bool
) -> None:
    """Refuse what CUDA refuses: tensors of two devices (but for single numbers), generators of another."""
    others = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor)]
    some = len(others) < len(tensors)
    if func in INDEXING:
        mixed = some and not isinstance(args[0], GpuTensor)
    else:
        mixed = some and func not in COPIES and any(tensor.dim() for tensor in others)
    drawn = kwargs.get("generator")
    place = on_gpu if drawn is None else _Generator.places.get(drawn._cdata) == "cuda"
    if mixed or place != on_gpu:
        shown = ", ".join(f"{tensor.device}{list(tensor.shape)}" for tensor in tensors)
        raise RuntimeError(f"{func} mixes devices: {shown or 'the generator is of another'}")


def _arrive(target: Tensor, value: Tensor) -> None:
    target.copy_(value)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value


def _place() -> str:
    """File and line of the innermost frame of this project, else of whoever called torch."""
    caller = ""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(ROOT / "erk_bench")):
            return f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        if not caller and "/torch/" not in name and name != __file__:
            caller = f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return caller


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGpu]:
    """One GPU that is none, for this process and the threads that it starts."""
    gpu = PretendGpu()
    for name, value in {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda _: None,
        "current_stream": lambda _=None: None,
        "get_device_name": lambda _=None: "pretended GPU",
        "synchronize": lambda _=None: gpu._wait("synchronize"),
        "Event": _Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        pinned.pinned = True
        return pinned

    tolist, run_thread = Tensor.tolist, threading.Thread.run

    def list_of(tensor: Tensor) -> Any:
        return tolist(tensor.cpu() if isinstance(tensor, GpuTensor) else tensor)

    def run(thread: threading.Thread) -> None:
        with gpu.mode():
            run_thread(thread)

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "tolist", list_of)
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(threading.Thread, "run", run)
    monkeypatch.setattr(PretendGpu, "current", gpu)
    torch._C._ensureCUDADeviceGuardSet()
    lifted = torch._C._only_lift_cpu_tensors()
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") makes it on the CPU first
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with gpu.mode():
            yield gpu
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
