"""A progress bar with rate and remaining time; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0


@contextmanager
def progress_bar(title: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of images just finished; writes to standard error."""
    console = Console(stderr=True)
    if not shown:
        yield lambda count: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, rate="")
            start = time.monotonic()
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                rate = done / max(time.monotonic() - start, 1e-9)
                bar.update(task, advance=count, rate=f"{rate:.1f} images/s")

            yield advance
    else:
        yield _lines(title, total)


def _lines(title: str, total: int) -> Callable[[int], None]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or done >= total:
            last = now
            rate = done / max(now - start, 1e-9)
            remaining = max(total - done, 0) / rate
            print(
                f"{title}: {done}/{total} images, {rate:.1f} images/s, {remaining:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return advance
