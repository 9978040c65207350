"""Downloads from servers that stop, change, lie, dawdle or never end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from erk_bench.base import download as module
from erk_bench.base.download import download
from erk_bench.base.errors import UserError
from erk_bench.base.private import private_folder
from tests.http_server import FileServer, serving

OLD = b"\x80" + bytes(range(256)) * 400
NEW = b"\x80" + bytes(reversed(range(256))) * 400  # of the same length
LONG_AGO = "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.pkl").write_bytes(OLD)
    with serving(folder) as state:
        yield state


def get(tmp_path: Path, server: FileServer, path: str = "a.pkl") -> bytes:
    with private_folder(tmp_path / "own") as own:
        download(f"{server.url}/{path}", own, "a.part", "a.pkl")
        return own.read("a.part")


def interrupt(tmp_path: Path, server: FileServer) -> int:
    """Leave a part of the present file; returns its length."""
    server.cut = 1000
    with pytest.raises(UserError, match="cannot fetch"):
        get(tmp_path, server)
    server.cut = None
    server.requests.clear()
    return (tmp_path / "own" / "a.part").stat().st_size


@pytest.mark.parametrize(
    "headers", [{"ETag": '"1"'}, {"Last-Modified": LONG_AGO}, {"ETag": '"1"', "Last-Modified": LONG_AGO}]
)
def test_goes_on_where_it_stopped(headers: dict[str, str], tmp_path: Path, server: FileServer) -> None:
    server.headers = headers
    have = interrupt(tmp_path, server)
    assert 0 < have < len(OLD)
    assert get(tmp_path, server) == OLD
    assert server.requests == [("/a.pkl", f"bytes={have}-")]


@pytest.mark.parametrize("heedless", [False, True], ids=["compares", "ignores If-Range"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        ({"ETag": '"1"'}, {}),
        ({"Last-Modified": LONG_AGO}, {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}),
        ({"Last-Modified": LONG_AGO}, {"ETag": '"2"', "Last-Modified": LONG_AGO}),
        ({"ETag": 'W/"1"'}, {"ETag": 'W/"1"'}),
        ({}, {}),
    ],
)
def test_never_mixes_two_files(
    before: dict[str, str], after: dict[str, str], heedless: bool, tmp_path: Path, server: FileServer
) -> None:
    server.headers, server.heedless = before, heedless
    interrupt(tmp_path, server)
    (server.folder / "a.pkl").write_bytes(NEW)
    server.headers = after
    assert get(tmp_path, server) == NEW


def test_a_date_of_this_very_second_tells_nothing(tmp_path: Path, server: FileServer) -> None:
    server.headers = {"Last-Modified": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}
    interrupt(tmp_path, server)
    assert get(tmp_path, server) == OLD
    assert server.requests == [("/a.pkl", None)]


@pytest.mark.parametrize("data", [NEW + b"more", NEW[:-500]], ids=["longer", "shorter"])
def test_another_length_starts_anew(data: bytes, tmp_path: Path, server: FileServer) -> None:
    """Even where a careless server keeps the tag."""
    interrupt(tmp_path, server)
    (server.folder / "a.pkl").write_bytes(data)
    assert get(tmp_path, server) == data


def test_a_server_without_ranges(tmp_path: Path, server: FileServer) -> None:
    def whole(handler: BaseHTTPRequestHandler) -> None:
        plainly(handler, OLD, {"ETag": '"1"'})

    interrupt(tmp_path, server)
    server.answer = whole
    assert get(tmp_path, server) == OLD


@pytest.mark.parametrize(
    "span",
    ["bytes 0-9/10", "bytes 5-{last}/{total}", "bytes */{total}", "", "bytes {have}-{last}/*", "nonsense"],
)
def test_ranges_that_do_not_fit(span: str, tmp_path: Path, server: FileServer) -> None:
    have = interrupt(tmp_path, server)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Range") is None:
            plainly(handler, OLD, {"ETag": '"1"'})
            return
        text = span.format(have=have, last=len(OLD) - 1, total=len(OLD))
        plainly(handler, NEW[have:], {"ETag": '"1"', "Content-Range": text}, status=206)

    server.answer = answer
    assert get(tmp_path, server) == OLD


def test_part_of_another_address(tmp_path: Path, server: FileServer) -> None:
    """A mirror may have other files under equal tags."""
    interrupt(tmp_path, server)
    (server.folder / "b.pkl").write_bytes(NEW)
    assert get(tmp_path, server, "b.pkl") == NEW


@pytest.mark.parametrize("notes", [b"", b"{}", b"nonsense", b"[1]", b'["x", "y", "z", "w"]', b"[" * 3000])
def test_damaged_notes_start_anew(notes: bytes, tmp_path: Path, server: FileServer) -> None:
    interrupt(tmp_path, server)
    (tmp_path / "own" / "a.part").write_bytes(NEW[:5000])
    (tmp_path / "own" / "a.part.json").write_bytes(notes)
    assert get(tmp_path, server) == OLD


def test_whole_part_is_taken(tmp_path: Path, server: FileServer) -> None:
    """Killed between the last byte and the renaming: nothing is fetched twice."""
    assert get(tmp_path, server) == OLD
    server.requests.clear()
    assert get(tmp_path, server) == OLD and server.requests == []


def test_too_long_part_starts_anew(tmp_path: Path, server: FileServer) -> None:
    interrupt(tmp_path, server)
    (tmp_path / "own" / "a.part").write_bytes(OLD + b"more")
    assert get(tmp_path, server) == OLD


def plainly(handler: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], status: int = 200) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def chunks(handler: BaseHTTPRequestHandler, pieces: Iterator[bytes], *, end: bool = True) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    if end:
        handler.wfile.write(b"0\r\n\r\n")


def test_chunks_without_a_length(tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: chunks(handler, iter([OLD, OLD]))
    assert get(tmp_path, server) == OLD * 2
    server.answer = lambda handler: chunks(handler, iter([OLD]), end=False)
    with pytest.raises(UserError, match="nothing of it is kept"):
        get(tmp_path, server)


def test_shorter_than_its_length(tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: plainly(handler, OLD, {"Content-Length": str(len(OLD) + 7)})
    with pytest.raises(UserError, match="cannot fetch"):
        get(tmp_path, server)
    assert len(server.requests) == module.ATTEMPTS


def test_longer_than_its_length(tmp_path: Path, server: FileServer) -> None:
    """What it has is cut off where the server says that it ends; hash and reader see the rest."""
    server.answer = lambda handler: plainly(handler, OLD, {"Content-Length": str(len(OLD) - 7)})
    assert get(tmp_path, server) == OLD[:-7]


def endless(server: FileServer) -> Iterator[bytes]:
    while not server.over.is_set():
        yield OLD


def test_endless(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    server.answer = lambda handler: chunks(handler, endless(server))
    with pytest.raises(UserError, match="has more than 1,000,000 bytes, and the largest.*by hand"):
        get(tmp_path, server)
    assert (tmp_path / "own" / "a.part").stat().st_size == 0 and len(server.requests) == 1


def test_endless_by_its_own_word(tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: plainly(handler, b"", {"Content-Length": str(10**15)})
    with pytest.raises(UserError, match="has 1,000,000,000,000,000 bytes, and the largest"):
        get(tmp_path, server)


def test_endless_text_is_refused_at_once(tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: chunks(handler, (b"<html>" + b" " * 1000 for _ in endless(server)))
    with pytest.raises(UserError, match="an HTML or XML page, perhaps a login.*not kept"):
        get(tmp_path, server)
    assert (tmp_path / "own" / "a.part").stat().st_size == 0


def dawdling(server: FileServer, handler: BaseHTTPRequestHandler, piece: bytes) -> None:
    while not server.over.wait(0.02):
        handler.wfile.write(piece)


def test_a_trickle_ends(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.2)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        plainly(handler, b"\x80", {"Content-Length": "100000"})
        dawdling(server, handler, b"x")

    server.answer = answer
    began = time.monotonic()
    with pytest.raises(UserError, match="only [0-9]+ bytes came in"):
        get(tmp_path, server)
    assert time.monotonic() - began < 3


def test_headers_that_trickle_end(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.3)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        dawdling(server, handler, b"x")

    server.answer = answer
    with pytest.raises(UserError, match="no complete answer in 0 s"):
        get(tmp_path, server)


def test_silence_ends(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.05)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        plainly(handler, OLD, {"Content-Length": str(2 * len(OLD)), "ETag": '"1"'})
        server.over.wait()

    server.answer = answer
    with pytest.raises(UserError, match="ReadTimeout.*kept: run the same command again"):
        get(tmp_path, server)
    assert len(server.requests) == module.ATTEMPTS


def test_redirects_in_circles(tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: plainly(handler, b"", {"Location": "/a.pkl"}, status=302)
    with pytest.raises(UserError, match="leads in circles"):
        get(tmp_path, server)
    assert len(server.requests) == module.REDIRECTS + 1


@pytest.mark.parametrize("target", ["ftp://host/x", "file:///etc/passwd", "javascript:1"])
def test_redirects_elsewhere(target: str, tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: plainly(handler, b"", {"Location": target}, status=302)
    with pytest.raises(UserError, match="cannot fetch"):
        get(tmp_path, server)


def test_a_redirect_is_followed(tmp_path: Path, server: FileServer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        server.answer = None  # first: the client asks again at once
        plainly(handler, b"", {"Location": "/a.pkl"}, status=302)

    server.answer = answer
    assert get(tmp_path, server, "moved.pkl") == OLD


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("100000", "asks to wait 100,000 s"),
        ("99999999999999999999", "asks to wait 99,999,999,999,999,991,808 s|100,000,000,000,000,000,000 s"),
        (format_datetime(datetime.now(UTC) + timedelta(days=365), usegmt=True), "asks to wait 31,53"),
    ],
    ids=["long", "endless", "a date"],  # the same in every worker that collects the tests
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_bounded(
    text: str, told: str, status: int, tmp_path: Path, server: FileServer
) -> None:
    server.answer = lambda handler: plainly(handler, b"", {"Retry-After": text}, status=status)
    with pytest.raises(UserError, match=f"HTTP status {status}.*({told})"):
        get(tmp_path, server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["2", "-5", "soon", "Mon, 01 Jan 2024 00:00:00 GMT", ""])
def test_short_waits_are_heeded(
    text: str, tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        server.answer = None  # first: the client asks again at once
        plainly(handler, b"", {"Retry-After": text} if text else {}, status=503)

    server.answer = answer
    assert get(tmp_path, server) == OLD
    assert waits == [2.0 if text == "2" else 1.0]


@pytest.mark.parametrize("status", [204, 401, 403, 404, 410, 500])
def test_other_answers(status: int, tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: plainly(handler, b"", {}, status=status)
    with pytest.raises(UserError, match=f"HTTP status {status}"):
        get(tmp_path, server)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_compressed_answers(encoding: str, tmp_path: Path, server: FileServer) -> None:
    server.answer = lambda handler: plainly(handler, OLD, {"Content-Encoding": encoding})
    with pytest.raises(UserError, match="sends it compressed"):
        get(tmp_path, server)


@pytest.mark.parametrize(
    "head", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"]
)
def test_no_http(head: bytes, tmp_path: Path, server: FileServer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)

    server.answer = answer
    with pytest.raises(UserError, match="cannot fetch"):
        get(tmp_path, server)


@pytest.mark.parametrize("name", ["a.part", "a.part.json"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_planted_files_are_not_written_through(
    name: str, kind: str, tmp_path: Path, server: FileServer
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    if kind == "link":
        (own / name).symlink_to(victim)
    elif kind == "hard link":
        (own / name).hardlink_to(victim)
    else:
        os.mkfifo(own / name)
    assert get(tmp_path, server) == OLD
    assert victim.read_text() == "precious"


def test_notes(tmp_path: Path, server: FileServer) -> None:
    interrupt(tmp_path, server)
    assert json.loads((tmp_path / "own" / "a.part.json").read_bytes()) == [
        f"{server.url}/a.pkl", '"1"', len(OLD)
    ]  # fmt: skip
