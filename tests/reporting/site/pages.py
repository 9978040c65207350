"""Sites of made-up records for tests, and what pages of a site link to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from erk_bench.runs.records import MetricRecord, Record, record_text
from tests.runs.test_record_folder import record_of, set_of, spec_of

HOSTILE = "</script><script>alert(1)</script>\"'&amp; {{ 7*7 }}\n<img src=x onerror=alert(2)>"


def measured(value: float, seed: int, *, groups: int = 50, halves: int = 0) -> MetricRecord:
    """A metric with random replicates about its value."""
    random = np.random.RandomState(seed)
    replicates = value + 0.01 * random.randn(groups)
    half = tuple((value + 0.1 * random.randn(halves)).tolist())
    return MetricRecord(value, 0.07 + 0.001 * seed, tuple(replicates.tolist()), half)


def made_up(number: int, **changes: Any) -> Record:
    """The record of run `number`: six solvers, three costs, CFG or none."""
    solver = ("heun", "euler", "deis", "ipndm", "dpmpp", "unipc")[number % 6]
    words = [f"solver={solver}", f"schedule.num_steps={4 + number % 3}"]
    words += ["guidance=cfg", "guidance.weight=1.5"] if number % 2 else []
    metrics = {
        "fd_digits": measured(1.0 + number % 7, number),
        "recall_digits": measured(0.5, number, halves=100),
        "kid_digits": measured(-0.001 * number, number),
    }
    record = record_of(spec_of(*words), metrics=metrics, nfe=4 + number % 3, nfe_guide=4 * (number % 2))
    return dataclasses.replace(record, **{"run_id": f"{record.run_id}-{number}", **changes})


def write_all(folder: Path, records: Sequence[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        (folder / f"{number:04d}.json").write_text(record_text(record))
    return folder


def hostile_records() -> list[Record]:
    """Names, places, files and settings that would be markup if anybody took them for it."""
    run = made_up(0)
    model = "<script>alert(4)< &amp;\"'{{ 7*7 }}"  # reading refuses slashes and line breaks there
    spec = {**run.spec, "model": {**run.spec["model"], "name": model}}
    given = dataclasses.replace(set_of(), name=HOSTILE, images=f"/far/{HOSTILE}")
    # A set's run id has its name in plain characters; the file has whatever somebody wrote into it.
    return [
        dataclasses.replace(run, spec=spec, run_id="<script>alert(3)<", created=HOSTILE),
        dataclasses.replace(record_of(given), environment={HOSTILE: HOSTILE, "device": HOSTILE}),
        made_up(2, reference={"name": HOSTILE, "sha256": HOSTILE}),
    ]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name in ("href", "src") if (value := given.get(name)) is not None]
        self.ids.add(given.get("id") or "")


def links_of(page: Path) -> Iterator[tuple[str, Path, set[str]]]:
    """Each link of a page, the file it leads to, and the ids of the page."""
    parser = _Links()
    parser.feed(page.read_text(encoding="utf-8"))
    for link in parser.found:
        parts = urlsplit(link)
        assert not parts.scheme and not parts.netloc, f"{page} leads elsewhere: {link}"
        yield link, (page.parent / unquote(parts.path)) if parts.path else page, parser.ids
