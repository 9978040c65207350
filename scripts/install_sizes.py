"""What an installation takes, and what each extra adds to it, from the files of the packages installed here.

.venv/bin/python scripts/install_sizes.py
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of all packages that these requirements bring on this machine."""
    found: set[str] = set()
    waiting = [(text, frozenset[str]()) for text in requirements]
    seen = set()
    while waiting:
        if (item := waiting.pop()) in seen:
            continue
        seen.add(item)
        requirement, extras = Requirement(item[0]), item[1] or {""}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": each}) for each in extras):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of another platform, or not installed here
        waiting += [(text, frozenset(requirement.extras)) for text in needed]
    return found


def size_of(package: str) -> int:
    """Bytes of a package's files; 0 where it is not installed."""
    try:
        made = distribution(package)
    except PackageNotFoundError:
        return 0
    places = [Path(str(made.locate_file(file))) for file in made.files or []]
    return sum(place.stat().st_size for place in places if place.is_file())


def table() -> list[str]:
    """A line for the core and for each extra that a user would install."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]

    def resolved(name: str) -> list[str]:
        own = [text for text in extras[name] if not text.startswith("erk-bench[")]
        parts = [Requirement(text).extras for text in extras[name] if text.startswith("erk-bench[")]
        return own + [text for names in parts for part in names for text in resolved(part)]

    core = closure(project["dependencies"])
    cuda = {name for name in core if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))}
    lines = ["| extra | MB | packages | the largest |", "|---|---|---|---|"]
    rows = {"none: torch and its CUDA libraries": cuda, "none: all else": core - cuda}
    rows |= {f"`{name}`": closure(resolved(name)) - core for name in extras if name not in ("dev", "docs")}
    for title, packages in rows.items():
        sizes = {name: size_of(name) for name in packages}
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        shown = ", ".join(f"{name} {sizes[name] / 1e6:.0f}" for name in largest)
        lines.append(f"| {title} | {sum(sizes.values()) / 1e6:,.0f} | {len(packages)} | {shown} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
