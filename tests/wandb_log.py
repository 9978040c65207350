"""Reads what an offline W&B run wrote: the .wandb file is LevelDB's log format with protobuf records."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(path: Path) -> Iterator[bytes]:
    """The messages of a log file, checksums verified."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", f"{path} has no W&B header"
    place, parts = 7, b""
    while place < len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # too little for a header: padding
            place += left
            continue
        crc, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            place += left
            continue
        if place + 7 + length > len(data):
            return  # still being written
        chunk = data[place + 7 : place + 7 + length]
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == crc, f"damaged at {place} of {path}"
        place += 7 + length
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            yield parts


@dataclass
class LoggedRun:
    """A run as its log tells it. history: one dictionary a step; artifacts: by name."""

    folder: Path
    info: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)  # metric or glob -> its step metric
    artifacts: dict[str, list[Any]] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def tags(self) -> set[str]:
        return set(self.info.tags)

    def series(self, key: str) -> list[Any]:
        """The values of a key, in order."""
        return [row[key] for row in self.history if key in row]

    def file(self, entry: dict[str, Any]) -> Path:
        """The media file of a history value."""
        return self.folder / "files" / entry["path"]

    def used(self) -> set[str]:
        """Names of input artifacts."""
        return {name for name, several in self.artifacts.items() if several[0].use_after_commit}

    def logged(self) -> set[str]:
        """Names of output artifacts."""
        return set(self.artifacts) - self.used()

    def text(self, artifact: str) -> str:
        """The one small file of an artifact."""
        (entry,) = [item for item in self.artifacts[artifact][-1].manifest.contents if item.local_path]
        return Path(entry.local_path).read_text()


def read_run(folder: Path, patience: float = 5.0) -> LoggedRun:
    """The run of a folder (offline-run-... or run-...), once its end is written; Run.finish is earlier."""
    deadline = time.monotonic() + patience
    while (run := _read(folder)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return run


def _read(folder: Path) -> LoggedRun:
    (path,) = folder.glob("*.wandb")
    run = LoggedRun(folder)
    for message in messages(path):
        record = pb.Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.info = record.run
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            run.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): _value(item) for item in record.history.item}
            run.history.append(items)
        elif kind == "summary":
            for item in record.summary.update:
                run.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "metric":
            run.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts.setdefault(record.artifact.name, []).append(record.artifact)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _value(item: Any) -> Any:
    if item.value_json:
        return json.loads(item.value_json)
    kind = item.WhichOneof("value")
    return json.loads(item.json) if kind == "json" else getattr(item, kind)


def read_runs(folder: Path) -> dict[str, list[LoggedRun]]:
    """Every run under FOLDER/wandb by job type, in the order of their making."""
    found: dict[str, list[LoggedRun]] = {}
    for path in sorted((folder / "wandb").glob("*run-*"), key=lambda path: path.stat().st_ctime):
        run = read_run(path)
        if run.info is not None:
            found.setdefault(run.info.job_type, []).append(run)
    return found
