"""W&B that refuses, never answers or dies midway: the run goes on, ends soon, and nothing is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from erk_bench.reporting.trackers import open_tracker
from erk_bench.reporting.trackers.tracker import IMAGES, Launch, TrackerSpec
from erk_bench.runs.records import write_record
from erk_bench.spec import RunSpec
from tests.runs.test_records import record_of
from tests.wandb_log import read_runs

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow

NUM_RESULTS = 3

# The command of a user, with less patience. It tells how long the tracker held it up, and for how long all of
# it took but the end of the process.
ROOT = Path(__file__).parents[2]  # where the script finds tests
SCRIPT = """
import dataclasses, sys, time
from pathlib import Path
from erk_bench.runs.records import read_record
from erk_bench.reporting.trackers.tracker import Launch
from erk_bench.reporting.trackers.wandb.runs import Patience
from erk_bench.reporting.trackers.wandb.tracker import TrackerSpec, WandbTracker
from tests.reporting.test_table_views import make_view

record = read_record(Path(sys.argv[2]))
spec = record.run_spec
start = time.monotonic()
tracker = WandbTracker(
    TrackerSpec(name="wandb", folder=sys.argv[1]), Launch("table", "small", [spec]), "online",
    Patience(start=3, finish=4, upload=6, job=60),
)
if len(sys.argv) > 3:  # until the service has shown the launch
    while tracker._opened is None:
        time.sleep(0.05)
    tracker.advance(spec, 3)
    print("open", flush=True)
    sys.stdin.readline()
    tracker.table(make_view())
held = time.monotonic()
for index in range(3):
    tracker.advance(spec, 8)
    tracker.record(dataclasses.replace(record, seeds=f"{index}-39"))
held = time.monotonic() - held
tracker.close()
print(f"{held:.2f} {time.monotonic() - start:.2f}", flush=True)
"""


class Outcome(NamedTuple):
    """Seconds that the tracker held up the work, of the work with closing, and of the whole process."""

    held: float
    work: float
    process: float
    stderr: str


def launch_script(folder: Path, url: str, spec: RunSpec, *more: str) -> subprocess.Popen[str]:
    write_record(folder / "record.json", record_of(spec))
    environment = os.environ | {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder / "tracked"), str(folder / "record.json"), *more],
        env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def outcome(process: subprocess.Popen[str], since: float) -> Outcome:
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    held, work = map(float, output.split()[-2:])
    return Outcome(held, work, time.monotonic() - since, error)


def check_all_is_kept(folder: Path, error: str) -> None:
    """Every result is in an offline log, and the user was told once how to upload it."""
    runs = read_runs(folder / "tracked")
    kept = [run for run in runs["result"] if run.folder.name.startswith("offline-run-")]
    assert sorted(run.config["seeds"] for run in kept) == [f"{index}-39" for index in range(NUM_RESULTS)]
    for run in kept:
        assert run.series("fd_digits") == [1 / 3]
        assert run.exit_code == 0
        assert len(run.artifacts) == 3
    told = [line for line in error.splitlines() if line.startswith("W&B:")]
    assert len(told) == 1
    assert "goes on offline; upload it later with: wandb sync" in told[0]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


def test_service_that_refuses(small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    start = time.monotonic()
    found = outcome(launch_script(tmp_path, f"http://127.0.0.1:{port}", small_run()), start)
    assert found.held < 1
    assert found.work < 12
    check_all_is_kept(tmp_path, found.stderr)


def test_service_that_never_answers(
    small_run: Callable[..., RunSpec], silent_port: int, tmp_path: Path
) -> None:
    start = time.monotonic()
    found = outcome(launch_script(tmp_path, f"http://127.0.0.1:{silent_port}", small_run()), start)
    assert found.held < 1
    assert found.work < 12
    assert found.process < 60  # wandb's own farewell takes 22 s here
    check_all_is_kept(tmp_path, found.stderr)


class Service(ThreadingHTTPServer):
    """Answers what a starting run asks, until it is told to fall silent."""

    daemon_threads = True
    silent = threading.Event()


class Answers(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.silent.is_set():
            time.sleep(100)
        data: dict[str, Any] = {"viewer": {"id": "v", "entity": "somebody", "username": "v", "flags": "{}"}}
        if b"upsertBucket" in body:
            name = json.loads(body)["variables"]["name"]
            project = {"id": "p", "name": "erk-bench", "entity": {"id": "e", "name": "somebody"}}
            bucket = {"id": "b", "name": name, "displayName": name, "project": project, "historyLineCount": 0}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST  # noqa: N815 - the names that http.server asks for

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("end", ["gone", "silent"])
def test_service_that_dies_midway(end: str, small_run: Callable[..., RunSpec], tmp_path: Path) -> None:
    service = Service(("127.0.0.1", 0), Answers)
    service.silent = threading.Event()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    process = launch_script(tmp_path, f"http://127.0.0.1:{service.server_port}", small_run(), "wait")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        if end == "gone":
            service.shutdown()
            service.server_close()
        service.silent.set()
        start = time.monotonic()
        process.stdin.write("go on\n")
        process.stdin.flush()
        found = outcome(process, start)
    finally:
        process.kill()
        service.server_close()
    assert found.held < 1
    assert found.process < 90
    check_all_is_kept(tmp_path, found.stderr)
    runs = read_runs(tmp_path / "tracked")
    online, offline = runs["launch"]  # what was logged before stays, too, to be uploaded by hand
    assert online.folder.name.startswith("run-")
    assert offline.info.display_name == "table small, continued offline"
    assert online.info.run_id != offline.info.run_id
    assert online.series(IMAGES) == []
    assert offline.series(IMAGES) == [27]
    assert offline.series("table/small/nrows") == [18]


def test_refused_upload_is_noticed_though_the_status_of_wandb_sync_is_0(
    small_run: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erk_bench.reporting.trackers.wandb.runs import upload

    class Refuses(Answers):
        def do_POST(self) -> None:
            self.send_error(403)

        do_GET = do_PUT = do_POST  # noqa: N815

    spec = small_run()
    tracker = TrackerSpec(name="wandb", mode="offline", folder=str(tmp_path))
    with open_tracker(tracker, Launch("run", "x", [spec])) as opened:
        opened.record(record_of(spec))
    (run,) = read_runs(tmp_path)["result"]
    service = Service(("127.0.0.1", 0), Refuses)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{service.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with pytest.raises(RuntimeError, match="'wandb sync' failed"):
        upload([run.folder], 60)
    (run.folder / f"run-{run.info.run_id}.wandb.synced").touch()
    upload([run.folder], 60)  # the mark counts: nothing is left to do
    service.shutdown()
    service.server_close()
