"""Records: one small JSON file a result, which explains itself; everything shown is a view of records."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import math
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from erk_bench.base.errors import UserError
from erk_bench.base.fields import build
from erk_bench.base.file_names import check_file_name
from erk_bench.base.files import write_atomic
from erk_bench.base.untrusted import parse_json
from erk_bench.spec import PROTOCOL, RunSpec, SetSpec, Spec

FORMAT = "erk-bench record 1"
PACKAGES = (
    "erk-bench", "torch", "torchvision", "torch-fidelity", "numpy", "scipy", "scikit-learn",
    "safetensors", "hydra-core", "timm", "diffusers",
)  # fmt: skip


LATER = ("images", "converged")  # fields that came later, which earlier records lack


@dataclass(frozen=True)
class MetricRecord:
    """A metric's value, its standard error, and the leave-one-group-out values.

    halves: of recall and coverage, the values of random halves of the images; the error is theirs. Records
    of before have none: there it is that of the groups.
    """

    value: float
    standard_error: float
    replicates: tuple[float, ...]
    halves: tuple[float, ...] = ()


@dataclass(frozen=True)
class Record:
    """One result: what was run, with what, and what was measured.

    spec: every field of the RunSpec, or of the SetSpec of images that something else made. nfe, nfe_guide:
    counted evaluations of the main and the guiding network per image. seconds_per_block: wall time of each
    block's sampling by block number, on `device`; blocks that an earlier launch finished without a timing, or
    that shared trajectories with other runs of a grid, are absent. reference: name and sha256. detectors:
    name and hash of each, and of each metric of a user's own. environment: where and with what it ran; its
    entry "shared" has the number of runs that shared, and this one's part of the network evaluations (of
    single images). images: of a set, what was found in it: "unreadable" names what was left out, "duplicates"
    counts copies of other images, "reference" is true where it is the reference itself. converged: where
    solver errors were measured, the run that they are distances to, and under "check" the errors of one of
    half as many steps.
    """

    run_id: str
    spec: dict[str, Any]
    seeds: str
    num_images: int
    nfe: float
    nfe_guide: float
    metrics: dict[str, MetricRecord]
    seconds_per_block: dict[str, float]
    reference: dict[str, str]
    detectors: tuple[str, ...]
    environment: dict[str, Any]
    protocol: int = PROTOCOL
    format: str = FORMAT
    created: str = field(default="")
    images: dict[str, Any] = field(default_factory=dict)
    converged: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Spec:
        """Where its images came from: a sampler's run, or a set."""
        return build(SetSpec, self.spec) if _is_set(self.spec) else self.run_spec

    @property
    def run_spec(self) -> RunSpec:
        """Of a sampler's run. Raises UserError for a set's."""
        if _is_set(self.spec):
            raise UserError(f"{self.run_id} is of a set of images ('{self.spec['images']}'), not of a run")
        return build(RunSpec, self.spec)

    @property
    def pairing(self) -> tuple[str, str]:
        """What its images are numbered or named by; records of equal pairings are compared as pairs.

        ("seeds", FIRST-LAST) of a run, and of a set whose files are named by such numbers; else ("names",
        hash).
        """
        source = self.source
        if isinstance(source, SetSpec) and not source.numbers:
            return "names", source.names_sha256
        return "seeds", source.numbers if isinstance(source, SetSpec) else self.seeds

    @property
    def name(self) -> str:
        """What it is called: a set's own name, a run's slug."""
        source = self.source
        return source.name if isinstance(source, SetSpec) else source.slug

    @property
    def key(self) -> RecordKey:
        """What tells it from other records of a folder."""
        metrics = self.source.metrics
        return RecordKey(self.run_id, self.seeds, metrics.protocol, metrics.reference)

    @property
    def solution(self) -> str:
        """What its solver errors are distances to; "" where none were measured."""
        made = self.converged
        return f"{made['solver']}, {made['num_steps']} steps" if made else ""

    @property
    def seconds_per_1000(self) -> float | None:
        """Median seconds of one worker for 1000 images, or None without timings."""
        if not self.seconds_per_block:
            return None
        times = sorted(self.seconds_per_block.values())
        middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
        return 1000 * middle / int(self.spec["block_size"])


class RecordKey(NamedTuple):
    """A run or set, its seeds, and how it was measured: protocol of the field ("" for none) and reference."""

    run_id: str
    seeds: str
    protocol: str
    reference: str

    @classmethod
    def of(cls, spec: Spec) -> RecordKey:
        """The key that the record of these settings has."""
        return cls(spec.run_id, spec.seeds, spec.metrics.protocol, spec.metrics.reference)


def _is_set(spec: dict[str, Any]) -> bool:
    return "model" not in spec and "sha256" in spec


def environment(device: torch.device) -> dict[str, Any]:
    """Package and driver versions, device at hand, commit and whether the working tree differs from it."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "packages": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        **_commit(),
    }


@functools.cache
def device_name(device: torch.device) -> str:
    """What a device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _commit() -> dict[str, Any]:
    """Commit of the source tree and its dirtiness (null when it is no checkout); results/ does not count."""
    folder = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside somebody else's repository: only our own tracked source counts.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None, "dirty": None}
    # Hashes of fetched files are in each record, so the lock file does not count either.
    kept_out = (":(top,exclude)results", ":(top,exclude)configs/assets.lock")
    changes = git("status", "--porcelain", "--", ":/", *kept_out)
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, atomically."""
    write_atomic(path, record_text(record).encode())


def record_text(record: Record) -> str:
    """A record as the text of its file; a field that came later stands there only where it says something."""
    content = dataclasses.asdict(record)
    for name in LATER:
        if not content[name]:
            del content[name]
    for metric in content["metrics"].values():
        if not metric["halves"]:
            del metric["halves"]
    return json.dumps(content, indent=1) + "\n"


def _check_numbers(content: dict[str, Any]) -> None:
    """Raise TypeError where a record, whose fields are all there, has something else for a number."""
    numbers = [content["nfe"], content["nfe_guide"], *content["seconds_per_block"].values()]
    good = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    for metric in content["metrics"].values():
        values = (metric.value, metric.standard_error, *metric.replicates, *metric.halves)
        good = good and all(isinstance(value, int | float) for value in values)
    if not (good and all(type(content[name]) is int for name in ("num_images", "protocol"))):
        raise TypeError("something else than a number")


def read_record(path: Path) -> Record:
    """Read a record, checking its format and fields."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{path}' is no readable record ({error}); delete it and run the row again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"'{path}' has format {found!r}; expected '{FORMAT}'")
    known = {item.name for item in dataclasses.fields(Record)}
    if wrong := (set(content) ^ known) - set(LATER):
        raise UserError(f"'{path}' has other fields than a record: {sorted(wrong)}")
    for name in LATER:
        if not isinstance(content.get(name, {}), dict):
            raise UserError(f"'{path}' has damaged {name}; delete it and run the row again")
    try:
        content["metrics"] = {
            name: MetricRecord(
                item["value"],
                item["standard_error"],
                tuple(item["replicates"]),
                tuple(item.get("halves", ())),
            )
            for name, item in content["metrics"].items()
        }
        content["detectors"] = tuple(content["detectors"])
        _check_numbers(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' has damaged metrics ({error!r}); delete it and run the row again"
        ) from error
    for name in ("run_id", "seeds"):  # files are named after them
        check_file_name(f"{name} of '{path}'", str(content[name]))
    try:
        build(SetSpec if _is_set(content["spec"]) else RunSpec, content["spec"])
    except (UserError, TypeError) as error:
        raise UserError(f"'{path}' has a damaged spec ({error}); delete it and run the row again") from error
    return Record(**content)
