"""Carries out the operations of a pickle on harmless values, with every quantity bounded beforehand.

Python's own unpickler trusts its file: it hashes tuples however deep they nest, and makes room for whatever
length or memo number it is told. Here the operations are counted, only plain values become keys, and bytes
stay views of the buffer, so that a file of gigabytes is never copied. A pickle can call nothing but the
functions of a closed table.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from erk_bench.base.errors import UserError

MAX_OPERATIONS = 1_000_000  # of a file with its nested streams; published networks have some 100,000
MAX_LINE = 4096  # bytes of a text argument; only protocols 0 and 1 have them
MAX_INTEGER = 32  # bytes
MAX_KEY = 4096  # bytes of a key that is no text
HASHED_APART = 2**60  # Python gives distinct hashes to integers below it
PROTOCOL = 5

_OPCODES = {ord(row.code): row for row in pickletools.opcodes}
_LENGTHS = {  # bytes of a length, and whether it is signed
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_PUSHED = {
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT",
    "STRING", "SHORT_BINSTRING", "BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


class UnsafePickleError(UserError):
    """The pickle names a global, or uses an operation, that published files do not need."""


class Function:
    """What a pickle may call. counted: whether it takes the budget as its first argument."""

    __slots__ = ("_counted", "_function")

    def __init__(self, function: Callable[..., Any], counted: bool = False) -> None:
        self._function, self._counted = function, counted

    def call(self, budget: Budget, args: tuple[Any, ...]) -> Any:
        return self._function(budget, *args) if self._counted else self._function(*args)


class Stateful:
    """A value that a pickle may give a state."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class Budget:
    """What is left of operations, and of bytes that functions may make; shared with nested streams."""

    def __init__(self, num_bytes: int, operations: int = MAX_OPERATIONS) -> None:
        self.operations, self.num_bytes = operations, num_bytes

    def take_operation(self) -> None:
        self.operations -= 1
        if self.operations < 0:
            raise UnsafePickleError(f"it has more than {MAX_OPERATIONS:,} operations")

    def take_bytes(self, count: int) -> None:
        self.num_bytes -= count
        if self.num_bytes < 0:
            raise UnsafePickleError("it unfolds into more than what the file holds")


def checked_key(value: Any) -> Any:
    """A dictionary key or member of a set, if its hash is quick and no other value's."""
    if isinstance(value, memoryview) and len(value) <= MAX_KEY:
        return bytes(value)
    quick = value is None or type(value) in (str, float, bool)
    if quick or (type(value) is int and abs(value) < HASHED_APART):
        return value
    raise UnsafePickleError(f"it has a key of type {type(value).__name__}; only names and numbers are read")


class PickleMachine:
    """Reads the pickle at `position` of `data`; `run` leaves `position` after it.

    allowed: stand-ins by 'module.name'. persistent: what gives the object of a persistent id.
    """

    def __init__(
        self,
        data: memoryview,
        allowed: Mapping[str, Any],
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
        position: int = 0,
    ) -> None:
        self.data, self.position = data, position
        self._allowed, self._budget, self._persistent = allowed, budget, persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # stacks below the open marks
        self._memo: dict[int, Any] = {}
        self._count = 0

    def run(self) -> Any:
        """The value of the pickle.

        Raises UnsafePickleError for what no published file needs, and EOFError, ValueError, TypeError,
        LookupError or AttributeError for a damaged one.
        """
        while True:
            self._budget.take_operation()
            row = _OPCODES.get(self._take(1)[0])
            if row is None:
                raise ValueError(f"no operation at byte {self.position - 1}")
            argument = self._argument(row)
            if row.name == "STOP":
                return self._stack.pop()
            self._carry_out(row.name, argument)
            self._count += 1

    def _take(self, count: int) -> memoryview:
        end = self.position + count
        if not self.position <= end <= len(self.data):
            raise EOFError(f"{count:,} bytes announced at byte {self.position:,}, which are not there")
        view = self.data[self.position : end]
        self.position = end
        return view

    def _argument(self, row: pickletools.OpcodeInfo) -> Any:
        if row.arg is None:
            return None
        if row.arg.n in _LENGTHS:
            size, signed = _LENGTHS[row.arg.n]
            raw = self._take(int.from_bytes(self._take(size), "little", signed=signed))
            if "UNICODE" in row.name:
                return str(raw, "utf-8", "surrogatepass")
            if "STRING" in row.name:
                return str(raw, "ascii")
            return _integer(raw) if "LONG" in row.name else raw
        if row.arg.n == pickletools.UP_TO_NEWLINE:
            lines = b"".join(self._line() for _ in range(2 if row.name in ("GLOBAL", "INST") else 1))
            return row.arg.reader(io.BytesIO(lines))
        raw = self._take(row.arg.n)
        if row.name == "BINFLOAT":
            return struct.unpack(">d", raw)[0]
        return int.from_bytes(raw, "little", signed=row.name == "BININT")

    def _line(self) -> bytes:
        start = bytes(self.data[self.position : self.position + MAX_LINE])
        end = start.find(b"\n")
        if end < 0:
            raise EOFError(f"no end of the line at byte {self.position:,}")
        return bytes(self._take(end + 1))

    def _carry_out(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif "PUT" in name:
            if not 0 <= argument <= self._count:
                raise UnsafePickleError(f"it stores memo number {argument} after {self._count} operations")
            self._memo[argument] = stack[-1]
        elif "GET" in name:
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._outer.append(stack)
            self._stack = []
        elif name in ("GLOBAL", "STACK_GLOBAL", "INST") or name.startswith("EXT"):
            self._push_global(name, argument)
        elif name in ("REDUCE", "NEWOBJ"):
            self._call()
        elif name == "BUILD":
            self._build()
        elif name == "BINPERSID" and self._persistent is not None:
            stack.append(self._persistent(stack.pop()))
        elif "PERSID" in name:
            raise UnsafePickleError("it uses persistent ids outside a tensor storage")
        elif name == "PROTO":
            if argument > PROTOCOL:
                raise ValueError(f"pickle protocol {argument}; known up to {PROTOCOL}")
        elif name == "FRAME":
            if argument > len(self.data) - self.position:
                raise EOFError(f"a frame of {argument:,} bytes, which are not there")
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP" and stack:
            stack.pop()
        else:
            self._collect(name)

    def _collect(self, name: str) -> None:
        """Operations that put values together."""
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(self._stack) < count:
                raise IndexError("a tuple of values that are not there")
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif name in ("POP", "POP_MARK"):
            self._since_mark()
        elif name == "TUPLE":
            self._push(tuple(self._since_mark()))
        elif name == "LIST":
            self._push(self._since_mark())
        elif name == "DICT":
            content: dict[Any, Any] = {}
            self._fill(content, self._since_mark())
            self._push(content)
        elif name == "FROZENSET":
            self._push(frozenset(map(checked_key, self._since_mark())))
        elif name in ("APPEND", "APPENDS"):
            items = self._since_mark() if name == "APPENDS" else [self._stack.pop()]
            self._target(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if name == "SETITEMS" else [self._stack.pop() for _ in range(2)][::-1]
            self._fill(self._target(dict), items)
        elif name == "ADDITEMS":
            items = self._since_mark()
            self._target(set).update(map(checked_key, items))
        else:
            raise UnsafePickleError(f"it uses the operation {name}, which published files do not")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _target(self, kind: type) -> Any:
        target = self._stack[-1]
        if not isinstance(target, kind):
            raise TypeError(f"a {type(target).__name__} instead of a {kind.__name__}")
        return target

    @staticmethod
    def _fill(target: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _push_global(self, name: str, argument: Any) -> None:
        if name.startswith("EXT"):  # the unpickler would take the object from a cache of the process
            raise UnsafePickleError(f"it uses the extension code {argument} instead of a global's name")
        if name == "STACK_GLOBAL":
            attribute, module = self._stack.pop(), self._stack.pop()
            if not (isinstance(attribute, str) and isinstance(module, str)):
                raise TypeError("the name of a global is no text")
            full_name = f"{module}.{attribute}"
        else:
            full_name = argument.replace(" ", ".")
        if full_name not in self._allowed:
            raise UnsafePickleError(
                f"it names the global '{full_name}', which published files of this kind do not use"
            )
        if name == "INST":
            raise UnsafePickleError("it uses the operation INST, which published files do not")
        self._push(self._allowed[full_name])

    def _call(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Function) or type(args) is not tuple:
            raise UnsafePickleError(f"it calls a {type(function).__name__}")
        value = function.call(self._budget, args)
        if isinstance(value, bytes):
            self._budget.take_bytes(len(value))
        self._push(value)

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Stateful):
            target.set_state(state)
        elif not isinstance(target, dict):  # attributes of a mapping are not needed
            raise UnsafePickleError(f"it sets the state of a {type(target).__name__}")


def _integer(raw: memoryview) -> int:
    if len(raw) > MAX_INTEGER:
        raise UnsafePickleError(f"it has an integer of {len(raw):,} bytes")
    return int.from_bytes(raw, "little", signed=True)
