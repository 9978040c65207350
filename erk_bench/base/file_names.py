"""Names that become part of file names: one name in one folder, never a way into another."""

from __future__ import annotations

from erk_bench.base.errors import UserError

MOST_BYTES = 150  # of a name; file systems take 255, and endings come on top


def name_problem(name: str) -> str:
    """Why `name` cannot be part of a file's name, in a few words; "" where it can."""
    if not name or name != name.strip():
        return "is empty, or begins or ends with a space"
    if "/" in name or "\\" in name:
        return "has a slash or backslash, which leads into another folder"
    if not name.isprintable():
        return "has characters that cannot be printed"
    if name[0] in ".-~":
        return f"begins with '{name[0]}'"
    if len(name.encode()) > MOST_BYTES:
        return f"has more than {MOST_BYTES} bytes"
    return ""


def check_file_name(what: str, name: str) -> None:
    """Raise UserError where the name of `what` cannot be part of a file's name."""
    problem = name_problem(name)
    if problem:
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        raise UserError(
            f"{what} is {shown!r}, which {problem}; it becomes part of file names: write a plain name, such "
            "as 'my-name'"
        )
