"""A local HTTP server of a folder, with byte ranges and validators, that can be told to misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """Serves `folder` at `url`.

    requests: (path, Range header) so far. cut: bytes until it hangs up. headers: sent with every file, such
    as ETag; If-Range is compared with them, unless heedless. answer: replaces the whole answer of a GET.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []
        self.cut: int | None = None
        self.headers: dict[str, str] = {"ETag": '"1"'}
        self.heedless = False
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.url = ""
        self.over = threading.Event()  # for answers that would go on for ever


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """A running server of `folder` on a free port of this machine."""
    state = FileServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            state.requests.append((self.path, span))
            if state.answer is not None:
                state.answer(self)
                return
            file = state.folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            if not state.heedless and self.headers.get("If-Range") not in (None, *state.headers.values()):
                span = None
            first = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
            if first and first >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if span else 200)
            for name, value in state.headers.items():
                self.send_header(name, value)
            if span:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - first))
            self.end_headers()
            end = None if state.cut is None else first + state.cut
            self.wfile.write(data[first:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no news
    # It looks that often whether it is to end; half a second by default, for which each test would wait.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
