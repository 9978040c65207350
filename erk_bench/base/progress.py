"""A progress bar with rate and remaining time; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from erk_bench.base.console import on_terminal

LINE_EVERY_S = 15.0

# Called with the images just finished, and the work that they were, in network evaluations.
Advance = Callable[[int, int], None]


class _Meter:
    """Counts images, and estimates the remaining time from the work, which differs from image to image."""

    def __init__(self, num_images: int, work: int, unit: str) -> None:
        self.unit = unit
        self.num_images = num_images
        self.work = work
        self.images_done = 0
        self.work_done = 0
        self._start = time.monotonic()

    def add(self, images: int, work: int) -> str:
        self.images_done += images
        self.work_done += work
        spent = max(time.monotonic() - self._start, 1e-9)
        left = max(self.work - self.work_done, 0) * spent / max(self.work_done, 1)
        total = max(self.num_images, self.images_done)  # a worker may do others' images too
        return (
            f"{self.images_done}/{total} {self.unit}, {self.images_done / spent:.1f} {self.unit}/s, "
            f"{int(left // 60)}:{int(left % 60):02d} left"
        )


@contextmanager
def progress_bar(
    title: str, num_images: int, work: int, *, shown: bool, unit: str = "images"
) -> Iterator[Advance]:
    """Yields the function to call after every block; writes to standard error. unit: what is counted."""
    console = Console(stderr=True)
    meter = _Meter(num_images, work, unit)
    if not shown:
        yield lambda images, work: None
    elif on_terminal(console):
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=work, state="starting")

            def advance(images: int, work: int) -> None:
                bar.update(task, advance=work, state=meter.add(images, work))

            yield advance
    else:
        yield _lines(title, meter)


def _lines(title: str, meter: _Meter) -> Advance:
    last = time.monotonic()

    def advance(images: int, work: int) -> None:
        nonlocal last
        state = meter.add(images, work)
        if time.monotonic() - last >= LINE_EVERY_S or meter.work_done >= meter.work:
            last = time.monotonic()
            print(f"{title}: {state}", file=sys.stderr, flush=True)

    return advance
