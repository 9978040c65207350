"""What a result was made from and what it left behind, as small facts with checksums; files stay unread."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from erk_bench.base.assets import Assets
from erk_bench.base.sources import PACKAGE
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.records import Record, record_text
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec, WeightsSpec


class Artifact(NamedTuple):
    """A node of the lineage. file, text: its one small file, whose checksum identifies the version.

    address: of the large file that it stands for, a URL or file URI, if that can be told.
    """

    kind: str
    name: str
    facts: dict[str, Any]
    file: str
    text: str
    address: str | None = None


def checkpoints(record: Record) -> list[Artifact]:
    """Every file of weights that the samples came from, by its sha256."""
    source = record.source
    return [_checkpoint(weights) for weights in source.weights] if isinstance(source, RunSpec) else []


def _checkpoint(weights: WeightsSpec) -> Artifact:
    facts = {"address": weights.path, "sha256": weights.sha256, "architecture": weights.architecture}
    # The folders of a local file say nothing to others.
    name = weights.path if ":" in weights.path else Path(weights.path).name
    return _artifact("checkpoint", name, facts, facts, _address(weights.path))


def _address(path: str) -> str | None:
    if path.startswith(PACKAGE):
        return None
    url = Assets.from_environment().url(path)
    if url is not None:
        return url
    local = Path(path).expanduser()
    return local.resolve().as_uri() if local.is_file() else None


def references(record: Record) -> list[Artifact]:
    """The statistics (and features) of real images that the samples were measured against, if any were."""
    if not record.reference:
        return []
    name = record.reference["name"]
    made = _artifact(
        "reference-statistics",
        name if ":" in name else Path(name).name,
        record.reference,
        record.reference,
        _address(name) if Path(name).suffix else None,
    )
    return [made]


def blocks(record: Record, folder: Path) -> list[Artifact]:
    """Manifests of the samples and features in the run's folder: each block's seeds, size and checksum.

    A kind of which no block or not every block is kept is left out.
    """
    kept = blocks_of(record.source.seed_range, record.source.block_size)
    found = []
    for kind, subfolders in (
        ("samples", ["images"]),
        ("features", [f"features/{detector}" for detector in record.detectors]),
    ):
        files = [file for each in subfolders for file in RunStore.manifest(folder, each, kept)]
        if files:
            facts = {"run_id": record.run_id, "seeds": record.seeds, "blocks": len(files)}
            found.append(_artifact(kind, record.run_id, facts, {**facts, "files": files}))
    return found


def record_file(record: Record) -> Artifact:
    """The record itself, the same bytes as its file."""
    facts = {"run_id": record.run_id, "seeds": record.seeds, "protocol": record.protocol}
    return Artifact("record", _name("record", record.run_id), facts, "record.json", record_text(record))


def _artifact(
    kind: str, name: str, facts: dict[str, Any], content: dict[str, Any], address: str | None = None
) -> Artifact:
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    return Artifact(kind, _name(kind, name), dict(facts), f"{kind}.json", text, address)


def _name(kind: str, name: str) -> str:
    # W&B allows these characters, 128 of them; the end of a name tells more than its beginning.
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")
    return f"{kind}-{clean[-(127 - len(kind)) :]}"
