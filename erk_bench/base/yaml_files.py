"""Reads the YAML files that people write: one reader, bounded, whose errors are one line each."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from erk_bench.base.errors import UserError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 100_000  # with every alias written out
TAGS = ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "merge")


def read_yaml(file: Path, kind: str, hint: str = "") -> Any:
    """The content of a YAML file as plain values.

    kind: what the file is, such as 'table', for errors. hint: the next step, added to them.
    Raises UserError, one line with the file and where known the line, for what is no regular UTF-8 file of
    one YAML document, has too many or too deep values, refers to itself, has a key twice, or a value that its
    type does not allow.
    """

    def refuse(problem: str, node_or_mark: Any = None, cause: BaseException | None = None) -> NoReturn:
        mark = getattr(node_or_mark, "start_mark", node_or_mark)
        place = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"cannot read the {kind} '{file}'{place}: {problem}{hint and f'; {hint}'}") from cause

    text = _text_of(file, refuse)
    try:
        _check_depth(text, refuse)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            refuse("it is empty, and so is no mapping of names to values")
        _check_nodes(node, refuse)
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        refuse(
            f"line {before.count(chr(10)) + 1} has the character U+{ord(text[error.position]):04X}, which "
            "YAML does not allow",
            cause=error,
        )
    except yaml.MarkedYAMLError as error:
        told = " ".join(filter(None, (error.context, error.problem)))
        refuse(told, error.problem_mark or error.context_mark, error)
    except yaml.YAMLError as error:
        refuse(str(error).splitlines()[0], cause=error)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300  # also of whole numbers that no float holds


def is_line(value: object) -> bool:
    """Whether a value is a text that stands in one line of a file or table."""
    return isinstance(value, str) and not any(map(_breaks, value))


def check_text(what: str, name: str, value: object, hint: str = "", *, several_lines: bool = False) -> None:
    """Refuse an entry that is no text, is empty, or has control characters or line separators.

    what: what has the entry, such as "the table 'x.yaml'". several_lines: line feeds and tabs may be in it.
    """
    tail = hint and f"; {hint}"
    if not isinstance(value, str):
        raise UserError(f"{what} has {name} {value!r}, not a text; put quotes around it{tail}")
    for letter in value:
        if _breaks(letter) and not (several_lines and letter in "\n\t"):
            raise UserError(
                f"{what} has {name} {value[:80]!r} with the character U+{ord(letter):04X} ({_name(letter)}); "
                f"leave it out{tail}"
            )
    if not value.strip():
        raise UserError(f"{what} has an empty {name}{tail}")


def _breaks(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")


def _name(letter: str) -> str:
    known = {"\n": "line feed", "\r": "carriage return", "\t": "tab", "\x85": "next line", "\0": "null"}
    return known.get(letter) or unicodedata.name(letter, "a control character").lower()


def _text_of(file: Path, refuse: Any) -> str:
    try:
        if not file.is_file():  # a pipe would wait for ever
            refuse("it is a folder" if file.is_dir() else "there is no such file")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        refuse(getattr(error, "strerror", None) or str(error), cause=error)
    if len(content) > MAX_BYTES:
        refuse(f"it has more than {MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        refuse(f"line {line} is no UTF-8 text; save the file as UTF-8", cause=error)
        raise  # for the type checker: refuse does not return


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; a value that its type does not allow is an error with a line."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, IndexError, AttributeError, OverflowError, TypeError) as error:
            shown = repr(str(node.value)[:80]) if isinstance(node, ScalarNode) else "this value"
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown} is no {kind}; put quotes around it if it is a text", node.start_mark
            ) from error


def _check_depth(text: str, refuse: Any) -> None:
    """From the events, before anything recursive sees the file."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                refuse(f"values are nested more than {MAX_DEPTH} deep", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(root: Node, refuse: Any) -> None:
    """Sizes with aliases written out, cycles, tags and keys; each node is looked at once."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def visit(node: Node) -> int:
        if id(node) in above:
            refuse("it refers to itself", node)
        if id(node) in sizes:
            return sizes[id(node)]
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if tag not in TAGS:
            refuse(f"it has the tag {node.tag[:80]!r}; write plain values", node)
        if isinstance(node, MappingNode):
            _check_keys(node, refuse)
        above.add(id(node))
        size = 1 + sum(map(visit, _children(node)))
        above.remove(id(node))
        if size > MAX_VALUES:
            refuse(f"with its aliases written out it has more than {MAX_VALUES:,} values", node)
        sizes[id(node)] = size
        return size

    visit(root)


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, SequenceNode):
        yield from node.value


def _check_keys(node: MappingNode, refuse: Any) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            refuse("a key is a list or a mapping; write a name", key)
        if key.value in seen:
            refuse(f"{key.value[:80]!r} is given twice", key)
        seen.add(key.value)
