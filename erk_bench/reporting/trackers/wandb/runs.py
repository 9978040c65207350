"""W&B runs and artifacts: how they are opened, filled and ended, online or not."""

from __future__ import annotations

import netrc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import wandb

from erk_bench.base.errors import UserError
from erk_bench.reporting.trackers import lineage
from erk_bench.reporting.trackers.tracker import LAUNCH, TrackerSpec

PROJECT = "erk-bench"
NAME_LENGTH = 128  # what W&B allows of a name or group
TAG_LENGTH = 64
FIRST_HOST = "api.wandb.ai"  # keys of the public service are kept under this name, whatever it is now
KEY_LENGTH = 40  # what W&B asks of a key, at least
LOG_WAIT_S = 10.0
LOG_HEADER = 7  # bytes of a log that has nothing yet
OTHER_MODES = {"run": "online", "shared": "online", "dryrun": "offline"}  # other names in WANDB_MODE


class Patience(NamedTuple):
    """Seconds before an online start, the end of the launch's run, an upload of results, and any single job
    are given up."""

    start: float = 20.0
    finish: float = 30.0
    upload: float = 120.0
    job: float = 180.0


class Page(NamedTuple):
    """What a W&B run is opened with."""

    job_type: str
    run_id: str
    name: str
    config: dict[str, Any]
    tags: set[str]


class Home(NamedTuple):
    """Where W&B runs go: the user's settings, and the group and tags of their launch."""

    spec: TrackerSpec
    group: str
    tags: frozenset[str]
    patience: Patience


def find_mode(spec: TrackerSpec) -> str:
    """online, offline or disabled; says so where it is offline for want of a key."""
    asked = os.environ.get("WANDB_MODE", "") if spec.mode == "auto" else spec.mode
    asked = OTHER_MODES.get(asked, asked)
    if asked in ("offline", "disabled"):
        return asked
    try:
        settings = wandb.setup().settings
    except (wandb.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"W&B's settings are not valid ({reason}); check WANDB_...") from error
    host = settings.base_url
    key = os.environ.get("WANDB_API_KEY") or settings.api_key or _login_key(host)
    if key is not None and len(key.strip()) < KEY_LENGTH:
        raise UserError(
            f"the W&B key for {host} has {len(key.strip())} characters, and needs {KEY_LENGTH} or more; "
            "run 'wandb login' or set WANDB_API_KEY"
        )
    if key is not None or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    if asked == "online":
        raise UserError(
            f"W&B is to be online, but no key for {host} is set; run 'wandb login', set WANDB_API_KEY, "
            "or use tracker.mode=auto or offline"
        )
    tell(f"no key is set, so this launch is kept offline; {how_to_sync(spec)}")
    return "offline"


def _login_key(host: str) -> str | None:
    """The key that 'wandb login' keeps for a host, in the file that NETRC names or the one in the home."""
    hosts = [urlsplit(host).netloc]
    if host == wandb.Settings.model_fields["base_url"].default:
        hosts.append(FIRST_HOST)
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]:
        try:
            known = netrc.netrc(path.expanduser())
        except (OSError, netrc.NetrcParseError):
            continue  # none, or none that wandb itself could read
        for name in hosts:
            entry = known.authenticators(name)
            if entry is not None and entry[2]:
                return entry[2]
    return None


def how_to_sync(spec: TrackerSpec) -> str:
    return f"upload it later with: wandb sync --include-online {spec.folder}/wandb/*run-*"


def tell(message: str) -> None:
    print(f"W&B: {message}", file=sys.stderr, flush=True)


def open_run(home: Home, page: Page, mode: str) -> wandb.Run:
    """A new W&B run beside any others. mode: online or offline; raises wandb's errors."""
    spec = home.spec
    live = page.job_type == LAUNCH
    Path(spec.folder).mkdir(parents=True, exist_ok=True)  # else wandb takes the temporary folder
    known: Literal["online", "offline"] = "online" if mode == "online" else "offline"
    return wandb.init(
        project=spec.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=spec.entity,
        dir=spec.folder,
        id=page.run_id,
        name=page.name[:NAME_LENGTH],
        group=home.group[:NAME_LENGTH],
        job_type=page.job_type,
        tags=sorted({tag[:TAG_LENGTH] for tag in page.tags | home.tags}),
        config=page.config,
        mode=known,
        reinit="create_new",  # a run that a notebook has open stays as it is
        # A launch goes on where it stopped; a result replaces what its id showed before.
        resume="allow" if live and known == "online" else None,
        settings=settings_of(live, home.patience),
    )


def settings_of(live: bool, patience: Patience) -> wandb.Settings:
    """Quiet, patient for so long, with machine statistics for a live run only.

    The names that begin with x_ may go in any version of wandb: those that it lacks are left out.
    """
    wanted: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "x_disable_stats": not live,
        "x_disable_meta": not live,
        "x_disable_machine_info": not live,
        "x_save_requirements": False,  # the record has the versions
        "init_timeout": patience.start,
        "login_timeout": patience.start,  # nobody is there to answer, should wandb ask for a key
        "finish_timeout": patience.finish,
        "finish_timeout_raises": True,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def fill_run(home: Home, page: Page, use: Callable[[wandb.Run], None]) -> Path:
    """Write a whole run offline, where no service can stop it; returns its folder, ready for `upload`."""
    run = open_run(home, page, "offline")
    folder = Path(run.dir).parent
    try:
        use(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    return folder


def upload(folders: Sequence[Path], patience: float) -> None:
    """Upload finished runs, in a process of its own, which can be ended and whose crash is no harm here.

    Raises TimeoutError or RuntimeError; what was not uploaded can be uploaded again.
    """
    for folder in folders:
        _await_log(folder)
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *map(str, folders)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "WANDB_DIR": str(folders[0].parents[1])},  # for its own log
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # signals to a job's processes are not for it
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"an upload took more than {patience:g} s") from error
    # Its status is 0 even where the service refused a run; a file beside the log marks what was uploaded.
    if done.returncode or not all(any(folder.glob("*.wandb.synced")) for folder in folders):
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "Error" in line]
        raise RuntimeError(f"'wandb sync' failed: {errors[-1] if errors else 'no reason given'}")


def _await_log(folder: Path) -> None:
    """Wait, a few seconds at most, until a finished run's log is whole: Run.finish returns before it is."""
    deadline = time.monotonic() + LOG_WAIT_S
    before = -1
    while time.monotonic() < deadline:
        size = sum(path.stat().st_size for path in folder.glob("*.wandb"))
        if size == before and size > LOG_HEADER:
            return
        before = size
        time.sleep(0.3)


def wandb_artifact(artifact: lineage.Artifact) -> wandb.Artifact:
    made = wandb.Artifact(artifact.name, artifact.kind, metadata=artifact.facts)
    with made.new_file(artifact.file) as file:
        file.write(artifact.text)
    if artifact.address is not None:
        made.add_reference(artifact.address, name="file", checksum=False)  # the text has the checksum
    return made


def use_artifact(run: wandb.Run, artifact: lineage.Artifact) -> None:
    """Note an input, known to the service or not.

    This makes the one private call of wandb. Run.use_artifact refuses offline, though 'wandb sync' uploads an
    input all the same; online it waits for the upload without a time limit. Where a version of wandb has not
    this call, or not with these arguments, the run's config shows the input instead.
    """
    made = wandb_artifact(artifact)
    try:
        run._log_artifact(made, is_user_created=True, use_after_commit=True)
    except (AttributeError, TypeError):
        shown = {f"input {artifact.name}": artifact.facts}
        run.config.update(shown, allow_val_change=True)  # type: ignore[no-untyped-call]
