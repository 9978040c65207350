"""HTTP downloads that go on where they stopped: bounded in bytes and time, never a mixture of two files."""

from __future__ import annotations

import functools
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from erk_bench.base.console import on_terminal
from erk_bench.base.contents import HEAD, start_problem
from erk_bench.base.errors import UserError
from erk_bench.base.files import writing
from erk_bench.base.private import PrivateFolder

MOST_BYTES = 16 * 10**9  # the largest published file has 3 GB
MOST_WAIT_S = 60.0  # for a server that asks to come back later
CONNECT_S = 10.0
ANSWER_S = 60.0  # from the first word to the last header, redirects included
SILENCE_S = 30.0  # between two pieces
SLOW_S, SLOWEST = 30.0, 1000.0  # seconds in which so many bytes a second must come
MOST_S = 12 * 3600.0  # of one connection
ATTEMPTS = 4
REDIRECTS = 10


class _Remains(NamedTuple):
    """What is noted beside a part: where it came from, the validator of its version, and its whole length.

    validator: a strong ETag, or a date; without one a part is of no use.
    """

    url: str
    validator: str
    total: int | None


class _DiscardedError(UserError):
    """What has arrived is no beginning of the file."""


class _BrokenError(Exception):
    """An attempt that may go better the next time. wait: seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(url: str, folder: PrivateFolder, name: str, title: str) -> None:
    """Fetch `url` into the file `name` of `folder`, going on where an earlier attempt stopped.

    title: the file's own name; a text where it promises a binary file is refused at once. Raises UserError;
    what has arrived is kept for the next attempt where the server tells versions of the file apart.
    """
    notes = f"{name}.json"
    waited = 0.0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with folder.open(name) as file:
                _attempt(url, folder, notes, file, title)
            return
        except _BrokenError as error:
            pause = error.wait or 2.0 ** (attempt - 1)
            waited += pause
            if attempt == ATTEMPTS or waited > MOST_WAIT_S:
                kept = "what has arrived is kept" if folder.read(notes) else "nothing of it is kept"
                raise UserError(
                    f"cannot fetch {url} ({error}); {kept}: run the same command again to go on, check the "
                    "network, or set a mirror (ERK_BENCH_MIRROR_...)"
                ) from error
        time.sleep(pause)


def _attempt(url: str, folder: PrivateFolder, notes: str, file: BinaryIO, title: str) -> None:
    """One connection after the other until the file is whole, or something breaks."""
    remains = _remains(folder, notes, url)
    have = file.seek(0, 2)
    if remains is None or (remains.total is not None and have > remains.total):
        remains, have = None, 0
    if remains is not None and have == remains.total:
        return
    with _answer(url, remains, have) as response:
        goes_on = response.status_code == 206 and remains is not None and _fits(response, remains, have)
        if response.status_code in (206, 416) and not goes_on:
            folder.remove(notes)  # of another version: from the beginning
            _empty(file, folder, title)
            raise _BrokenError(f"HTTP status {response.status_code} that does not fit", wait=0.01)
        _check(url, response)
        if not goes_on:
            have = 0
            _empty(file, folder, title)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if total is not None and total > MOST_BYTES:
            raise _too_large(url, f"{total:,} bytes")
        validator = _validator(response)
        if validator:
            folder.write(notes, json.dumps(_Remains(url, validator, total)).encode())
        else:
            folder.remove(notes)
        try:
            _receive(url, response, file, have, total, title, folder)
        except _DiscardedError:
            folder.remove(notes)
            file.truncate(0)
            raise
    if total is not None and file.tell() != total:
        raise _BrokenError(f"{file.tell():,} of {total:,} bytes arrived")


def _empty(file: BinaryIO, folder: PrivateFolder, title: str) -> None:
    if file.seek(0, 2):
        with writing(folder.path / title):
            file.truncate(0)


def _remains(folder: PrivateFolder, notes: str, url: str) -> _Remains | None:
    try:
        remains = _Remains(*json.loads(folder.read(notes)))
    except (ValueError, TypeError, RecursionError):
        return None
    return remains if remains.url == url and remains.validator else None


@contextmanager
def _answer(url: str, remains: _Remains | None, have: int) -> Iterator[httpx.Response]:
    """The answer's status and headers; its body is read by the caller. Raises _BrokenError, or UserError."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "erk-bench"}
    if remains is not None and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": remains.validator}
    watch = _Watch(ANSWER_S)
    try:
        with (
            _client() as client,
            watch,
            client.stream("GET", url, headers=headers, extensions={"trace": watch.trace}) as response,
        ):
            watch.stop()
            hops = [str(each.url) for each in (*response.history, response)]
            if url.startswith("https://") and any(not hop.startswith("https://") for hop in hops):
                raise UserError(f"{url} leads to {hops[-1]}, which is not encrypted; it was not fetched")
            yield response
    except httpx.TooManyRedirects as error:
        raise UserError(
            f"{url} leads in circles (more than {REDIRECTS} redirects); check the address"
        ) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
        raise UserError(f"cannot fetch {url}: {error}; check the address") from error
    except httpx.HTTPError as error:
        if watch.fired:
            raise UserError(
                f"cannot fetch {url}: no complete answer in {ANSWER_S:.0f} s; try again later, or set a "
                "mirror (ERK_BENCH_MIRROR_...)"
            ) from error
        text = next(iter(str(error).splitlines()), "")
        raise _BrokenError(f"{type(error).__name__}: {text}".removesuffix(": ")) from error


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Those that this machine trusts. Reading them takes longer than to connect."""
    return httpx.create_ssl_context()


def _client() -> httpx.Client:
    times = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
    try:
        return httpx.Client(
            verify=_certificates(), follow_redirects=True, max_redirects=REDIRECTS, timeout=times
        )
    except ValueError as error:
        raise UserError(f"cannot use the proxy of the environment: {error}; check HTTPS_PROXY") from error


class _Watch:
    """Ends connections that give no complete answer in time: a limit on every read never ends a trickle."""

    def __init__(self, seconds: float) -> None:
        self.fired = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's report of an event; remembers the socket of every connection."""
        if event.endswith("connect_tcp.complete"):
            self._sockets.append(info["return_value"].get_extra_info("socket"))

    def _end(self) -> None:
        self.fired = True
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._timer.cancel()

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _fits(response: httpx.Response, remains: _Remains, have: int) -> bool:
    """Whether a partial answer is the rest of the same version of the file."""
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if span is None or _validator(response) != remains.validator:
        return False
    first, last, total = (int(each) for each in span.groups())
    length = response.headers.get("Content-Length")
    return (
        first == have
        and last == total - 1
        and remains.total in (None, total)
        and length in (None, str(total - have))
    )


def _validator(response: httpx.Response) -> str:
    """What tells versions of a file apart to the byte: a strong ETag, else an old enough date; or ""."""
    etag = str(response.headers.get("ETag", ""))
    if etag:
        return etag if re.fullmatch(r'"[!#-~]*"', etag) else ""
    modified = str(response.headers.get("Last-Modified", ""))
    changed, now = _date(modified), _date(response.headers.get("Date", ""))
    if changed is None or (now is not None and (now - changed).total_seconds() < 1):
        return ""  # it may change once more within the same second
    return modified


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _check(url: str, response: httpx.Response) -> None:
    """Refuse what is no plain file."""
    status = response.status_code
    if status in (408, 429, 500, 502, 503, 504):
        asked = _retry_after(response.headers.get("Retry-After", ""))
        if asked > MOST_WAIT_S:
            raise UserError(
                f"cannot fetch {url}: HTTP status {status}, and the server asks to wait {asked:,.0f} s; run "
                "the same command again then, or set a mirror (ERK_BENCH_MIRROR_...)"
            )
        raise _BrokenError(f"HTTP status {status}", asked)
    if status not in (200, 206):
        raise UserError(
            f"cannot fetch {url} (HTTP status {status}); check the address, or set a mirror "
            "(ERK_BENCH_MIRROR_...)"
        )
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise UserError(
            f"cannot fetch {url}: the server sends it compressed ({encoding}), though asked not to; set a "
            "mirror, or download it by hand and give its path"
        )


def _retry_after(text: str) -> float:
    """Seconds that a server asks to wait; 0 where it does not say."""
    if text.strip().isdecimal():
        return float(text)
    date = _date(text)
    return 0.0 if date is None else max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _too_large(url: str, size: str) -> UserError:
    return _DiscardedError(
        f"cannot fetch {url}: it has {size}, and the largest that is fetched has {MOST_BYTES:,}; download it "
        "by hand and give its path"
    )


def _receive(
    url: str, response: httpx.Response, file: BinaryIO, have: int, total: int | None, title: str,
    folder: PrivateFolder,
) -> None:  # fmt: skip
    """Write the body behind the first `have` bytes of `file`, with a progress bar."""
    file.seek(have)
    head = b"" if have == 0 else None  # of a new file
    began = since = time.monotonic()
    received = 0
    with _bar(title, have, total) as advance:
        for piece in response.iter_raw():
            with writing(folder.path / title):
                file.write(piece)
                file.flush()
            advance(len(piece))
            if head is not None and len(head) < HEAD:
                head += piece[: HEAD - len(head)]
                if len(head) == HEAD:
                    _check_start(url, title, head)
            if file.tell() > MOST_BYTES:
                raise _too_large(url, f"more than {MOST_BYTES:,} bytes")
            received += len(piece)
            now = time.monotonic()
            if now - began > MOST_S:
                raise _BrokenError(f"it took more than {MOST_S / 3600:g} hours")
            if now - since > SLOW_S:
                if received < SLOW_S * SLOWEST:
                    raise UserError(
                        f"cannot fetch {url}: only {received:,} bytes came in {now - since:.0f} s; run the "
                        "same command again to go on, or set a mirror (ERK_BENCH_MIRROR_...)"
                    )
                since, received = now, 0


def _check_start(url: str, title: str, head: bytes) -> None:
    problem = start_problem(title, head)
    if problem:
        raise _DiscardedError(
            f"{url} gave something that {problem}; it was not kept: check the address, and whether it asks "
            "for a login"
        )


@contextmanager
def _bar(title: str, have: int, total: int | None) -> Iterator[Callable[[float], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not on_terminal(console)) as bar:
        task = bar.add_task(title, total=total, completed=have)
        yield lambda count: bar.advance(task, count)
