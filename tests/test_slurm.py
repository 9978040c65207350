"""The Slurm launchers: what they refuse and show without Slurm, and sweeps on a real one-node cluster."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate
from erk_bench.runs.records import Record, read_record
from erk_bench.spec import RunSpec
from tests.runs.test_generate import contents, ignore
from tests.runs.test_launch import environment

MakeSpec = Callable[..., RunSpec]

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "slurm" / "launch.sh"
TESTBED = ROOT / "scripts" / "slurm_testbed.sh"
ERK_BENCH = Path(sys.executable).parent / "erk-bench"
WAIT_S = 150.0  # a job that has not got there by then will not

SMALL = ["device=cpu", "workers=1", "metrics.num_groups=5", "metrics.kid_subset_size=20"]
CELL = ["correction.w_stiff=0.5", "correction.w_con=0.3"]


def launch(folder: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """launch.sh in `folder`, as a user would call it."""
    variables = environment(ERK_BENCH=str(ERK_BENCH), **extra)
    return subprocess.run(
        [str(LAUNCH), *words], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


# Without Slurm


@pytest.mark.parametrize(
    ("word", "last"),
    [
        (
            "",
            "crashed with status 70 (crash 1, at most 3 are requeued); not requeued, as Slurm is ending",
        ),
        ("done", "done"),
        ("stopped", "stopped, with its blocks finished; not requeued, as Slurm is ending the job"),
        ("mistake", "ended with status 2, see above; not requeued"),
    ],
)
def test_done_is_said_where_the_ranks_said_so(tmp_path: Path, word: str, last: str) -> None:
    """srun ends with status 0 though a node was lost: only the word of the first rank counts."""
    code = (
        f"set -euo pipefail; source {LAUNCH.parent / 'common.sh'}\n"
        'squeue() { echo COMPLETING; }; crashes=0; state="$PWD/1"\n'
        f'[[ -z "{word}" ]] || : >"$state.{word}"\nconclude 0'
    )
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert last in done.stdout.splitlines()[-1]
    assert (done.returncode == 0) == (word == "done")


@pytest.mark.parametrize(
    ("status", "variables", "left", "ends_with"),
    [
        (0, {}, ["1.done"], 0),
        (0, {"TORCHELASTIC_RUN_ID": "x", "RANK": "0"}, ["1.done"], 0),
        (0, {"TORCHELASTIC_RUN_ID": "x", "RANK": "1"}, [], 0),
        (75, {}, ["1.stopped"], 0),
        (2, {}, ["1.mistake"], 2),
        (70, {}, [], 70),
        (143, {}, [], 143),
    ],
)
def test_what_a_rank_leaves_behind(
    tmp_path: Path, status: int, variables: Mapping[str, str], left: Sequence[str], ends_with: int
) -> None:
    rank = [str(LAUNCH.parent / "rank.sh"), str(tmp_path / "1"), "bash", "-c", f"exit {status}"]
    done = subprocess.run(rank, env=environment(**variables), check=False)
    assert done.returncode == ends_with and sorted(path.name for path in tmp_path.iterdir()) == left


@pytest.mark.slow
def test_dry_run_shows_everything_and_submits_nothing(tmp_path: Path) -> None:
    words = ["digits_choice", "schedule.num_steps=4,6,8", "seeds=0-99", "to=views"]
    done = launch(
        tmp_path, *words, DRY_RUN="1", MAX_ARRAY_SIZE="2", THROTTLE="3", SBATCH_OPTIONS="--partition=x"
    )
    assert done.returncode == 0, done.stderr
    arrays = re.findall(r"^sbatch --array=(\S+) .*--partition=x \S*sweep.sbatch \S+ (\d+)", done.stdout, re.M)
    assert arrays == [("0-1%3", "0"), ("0-0%3", "2")]
    drawing = re.search(r"^sbatch --dependency=(\S+) .*aggregate.sbatch (.*)", done.stdout, re.M)
    assert drawing and drawing[1] == "afterany:JOB1:JOB2"
    assert shlex.split(drawing[2]) == ["grid", "grid=digits_choice", *words[1:]]
    assert re.findall(r"^grid grid=digits_choice schedule.num_steps=(\d+)", done.stdout, re.M) == [
        "4",
        "6",
        "8",
    ]
    assert "GRACE=90 MAX_CRASHES=3 MAX_REQUEUES=100" in done.stdout and "--requeue" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["digit"], {}, "unknown table or grid 'digit'. Tables: cifar16 cifar16-convergence"),
        (["digits"], {}, "'digits' is a table and a grid; say table=digits or grid=digits"),
        (["seeds=0-9"], {}, "'seeds=0-9' is a setting; name the table or the grid first"),
        (["no.manifest"], {}, "no manifest 'no.manifest'"),
        (["empty.manifest"], {}, "has no tasks; nothing to submit"),
        (["empty.manifest", "seeds=0-9"], {}, "'seeds=0-9' is neither table=NAME nor grid=NAME"),
        (["table2"], {"THROTTLE": "many"}, "THROTTLE is 'many'; expected a whole number"),
        (["table2"], {"DRY_RUN": "yes"}, "DRY_RUN is 'yes'"),
        (["table2"], {"ERK_BENCH": "/none"}, "no program '/none'; run 'make setup'"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, words: Sequence[str], variables: Mapping[str, str], message: str
) -> None:
    (tmp_path / "empty.manifest").write_text("# erk-bench manifest 1: table=digits\n\n")
    given = {"ERK_BENCH": str(ERK_BENCH), "DRY_RUN": "1", **variables}
    done = subprocess.run(
        [str(LAUNCH), *words],
        cwd=tmp_path,
        env=environment(**given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "results").exists()


def test_without_slurm_nothing_is_tried(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "basename", "date", "dirname", "find", "paste", "sed", "sort"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    done = launch(tmp_path, "table2", PATH=str(programs))
    assert done.returncode == 2
    assert "'sbatch' is not on PATH" in done.stderr and "DRY_RUN=1" in done.stderr
    assert not (tmp_path / "results").exists()


def test_batch_scripts_explain_themselves() -> None:
    for name in ("generate", "sweep", "aggregate"):
        script = ["bash", str(ROOT / "slurm" / f"{name}.sbatch")]
        shown = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True).stdout
        assert f"slurm/{name}.sbatch" in shown and "#SBATCH" not in shown
        bare = subprocess.run(script, env=environment(), capture_output=True, text=True, check=False)
        assert bare.returncode == 2 and "submit it with 'sbatch" in bare.stderr


# On a real cluster of one node


class Cluster(NamedTuple):
    """A running testbed and the variables that lead to it."""

    variables: Mapping[str, str]

    def call(self, *words: str, cwd: Path | None = None, **extra: str) -> str:
        """A command's output; its failure is the test's."""
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**self.variables, **extra},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, or of one task of an array (ARRAY_TASK)."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "--oneliner", "show", "job", job)))

    def ended(self, job: str) -> dict[str, str]:
        """The facts of a job once it has ended for good."""
        await_that(lambda: not self.call("squeue", "--noheader", f"--jobs={job.split('_')[0]}").strip(), job)
        return self.facts(job)


def await_that(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s for: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A testbed whose arrays hold two tasks; its absence is a failure, as who asks for these tests has it."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as above:
        variables = environment(
            TESTBED_FOLDER=f"{above}/t",
            TESTBED_MAX_ARRAY_SIZE="2",
            TESTBED_CPUS="2",
            ERK_BENCH=str(ERK_BENCH),
        )
        bed = Cluster(variables)
        started = bed.call(str(TESTBED), "start")
        try:
            conf = re.search(r"^export SLURM_CONF=(\S+)$", started, re.M)
            assert conf, started
            yield Cluster({**variables, "SLURM_CONF": conf[1], "ERK_BENCH_ROOT": str(ROOT)})
        finally:
            bed.call(str(TESTBED), "stop")
    assert not Path(variables["TESTBED_FOLDER"]).exists()


class Sweep(NamedTuple):
    """What launch.sh told of its jobs."""

    arrays: list[str]
    aggregate: str
    folder: Path

    def log(self, task: str) -> str:
        return (self.folder / f"{task}.log").read_text()


def submitted(output: str, folder: Path) -> Sweep:
    drawing = re.search(r"^aggregate (\d+):", output, re.M)
    assert drawing, output
    (logs,) = (folder / "results" / "slurm").glob("*-*")
    return Sweep(re.findall(r"^array (\d+):", output, re.M), drawing[1], logs)


def stamps(out: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every block file, both of which writing again would change."""
    files = out.glob("*/*/**/*.safetensors")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def blocks(out: Path, steps: int) -> list[Path]:
    return [path for path in stamps(out) if f"-heun{steps}-" in path.relative_to(out).parts[0]]


def results(out: Path) -> dict[str, Record]:
    """All records, without what may differ between two computations of the same."""
    found = {}
    for path in out.glob("*/records/*.json"):
        record = read_record(path)
        spec = {key: value for key, value in record.spec.items() if key != "out"}
        found[record.run_id] = dataclasses.replace(
            record, spec=spec, seconds_per_block={}, environment={}, created=""
        )
    return found


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in stamps(out)}


@pytest.mark.slurm
def test_sweep_survives_a_stop_and_a_kill(cluster: Cluster, tmp_path: Path) -> None:
    """An array over a grid: one task stopped, one killed, one left alone; the records show nothing of it."""
    steps = (4, 5, 6)
    grid = ["grid=digits", f"schedule.num_steps={','.join(map(str, steps))}", "seeds=0-1599", "block_size=20"]
    grid += [*CELL, *SMALL]
    out, plain = tmp_path / "out", tmp_path / "plain"
    told = cluster.call(str(LAUNCH), *grid, f"out={out}", cwd=tmp_path)
    sweep = submitted(told, tmp_path)
    first, second = sweep.arrays
    manifest = (sweep.folder / "manifest").read_text().splitlines()
    assert len(manifest) == 1 + len(steps)
    assert f"array {second}: lines 2 to 2" in told, "three tasks do not fit into an array of two"
    assert cluster.facts(sweep.aggregate)["JobState"] == "PENDING"

    def kill() -> None:
        (lock,) = out.glob("digits-heun5-erk*/locks/*/0-of-1")
        os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)

    def stop() -> None:
        cluster.call("scancel", "--signal=USR2", "--batch", f"{first}_0")

    disturb = {4: stop, 5: kill}  # in the middle of either task, whichever gets there first
    while disturb:
        await_that(lambda: any(len(blocks(out, each)) > 8 for each in disturb), "blocks of a task")
        for each in [each for each in disturb if len(blocks(out, each)) > 8]:
            disturb.pop(each)()
    await_that(lambda: "stopped, with its blocks finished; requeued" in sweep.log(f"{first}_0"), "the stop")
    await_that(lambda: "requeued, and goes on" in sweep.log(f"{first}_1"), "the crash")
    finished = {path: stamp for path, stamp in stamps(out).items() if "-heun6" not in str(path)}
    assert "crashed with status 137 (crash 1, at most 3 are requeued)" in sweep.log(f"{first}_1")

    subprocess.run(
        [ERK_BENCH, "grid", *grid, f"out={plain}"], env=environment(), capture_output=True, check=True
    )
    assert cluster.ended(sweep.aggregate)["JobState"] == "COMPLETED"
    assert 0 < len(finished) < len(blocks(plain, 4)) + len(blocks(plain, 5)), "the faults came too late"
    now = stamps(out)
    assert all(now[path] == stamp for path, stamp in finished.items()), "a finished block was written again"
    for task, restarts in ((f"{first}_0", "1"), (f"{first}_1", "1"), (f"{second}_0", "0")):
        facts = cluster.facts(task)
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", restarts), task
        assert facts["EndTime"] <= cluster.facts(sweep.aggregate)["StartTime"]
        assert sweep.log(task).splitlines()[-1].endswith(f"job {task}] done")
    assert files(out) == files(plain)
    assert results(out) == results(plain)
    assert len(results(out)) == 2 * len(steps), "a cell and its baseline at each number of steps"
    pictures = {path.name for path in (plain / "grids").iterdir()}
    assert {path.name for path in (out / "grids").iterdir()} == pictures
    assert "best FD-digits" in sweep.log(f"aggregate-{sweep.aggregate}")
    assert not list(sweep.folder.glob("*.crashes")) + list(sweep.folder.glob("*.stopped"))


@pytest.mark.slurm
def test_mistake_in_a_line_is_not_repeated(cluster: Cluster, tmp_path: Path) -> None:
    """Its task fails at once, the others finish, and the job that draws names what is missing."""
    grid = ["grid=digits", "schedule.num_steps=4,5", "seeds=0-99", *CELL, *SMALL, f"out={tmp_path / 'out'}"]
    cluster.call(str(ERK_BENCH), "plan", "--manifest", "two.manifest", *grid, cwd=tmp_path)
    manifest = tmp_path / "two.manifest"
    header, good, bad = manifest.read_text().splitlines()
    manifest.write_text("\n".join([header, good, bad.replace("seeds=0-99", "seeds=0-1")]))
    told = cluster.call(str(LAUNCH), "two.manifest", *grid, cwd=tmp_path, MAX_CRASHES="1")
    sweep = submitted(told, tmp_path)
    (array,) = sweep.arrays
    assert cluster.ended(sweep.aggregate)["JobState"] == "FAILED"
    assert cluster.facts(f"{array}_0")["JobState"] == "COMPLETED"
    facts = cluster.facts(f"{array}_1")
    assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("FAILED", "0", "2:0")
    assert "ended with status 2, see above; not requeued" in sweep.log(f"{array}_1").splitlines()[-1]
    drawing = sweep.log(f"aggregate-{sweep.aggregate}")
    assert "2 runs are not complete (first: digits-heun5-" in drawing and "sampling is false" in drawing


@pytest.mark.slurm
@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_generate_with_two_ranks(
    cluster: Cluster, small_run: MakeSpec, tmp_path: Path, launcher: str
) -> None:
    """The same bytes as one local worker, and one report."""
    plain = small_run()
    generate([[plain]], Worker(), ignore, features=True)
    spec = small_run(f"out={tmp_path / 'slurm'}")
    (tmp_path / "results" / "slurm").mkdir(parents=True)
    words = ["schedule.num_steps=4", "seeds=0-39", "block_size=8", *SMALL, f"out={spec.out}"]
    script = str(ROOT / "slurm" / "generate.sbatch")
    job = cluster.call(
        "sbatch", "--parsable", "--ntasks=2", script, *words, cwd=tmp_path, LAUNCHER=launcher
    ).strip()
    state = cluster.ended(job)["JobState"]
    log = (tmp_path / "results" / "slurm" / f"erk-bench-{job}.log").read_text()
    assert state == "COMPLETED", log
    assert f"1 x 2 ranks by {launcher}" in log and log.count("FD-digits") == 1
    assert contents(spec) == contents(plain)
    # Both took part; the first to start may have done the other's blocks, too.
    ranks = {path.name for path in (Path(spec.out) / spec.run_id / "locks" / spec.seeds).iterdir()}
    assert ranks == {"0-of-2", "1-of-2"}


@pytest.mark.slurm
def test_stop_with_two_ranks_of_torchrun(cluster: Cluster, small_run: MakeSpec, tmp_path: Path) -> None:
    """Every rank finishes its block though they end at different moments, and torchrun ends none of them."""
    settings = ["schedule.num_steps=16", "seeds=0-799", "block_size=20"]
    spec = small_run(*settings, f"out={tmp_path / 'slurm'}")
    (tmp_path / "results" / "slurm").mkdir(parents=True)
    script = str(ROOT / "slurm" / "generate.sbatch")
    words = [*settings, "workers=1", *SMALL[2:], "device=cpu", f"out={spec.out}"]
    job = cluster.call(
        "sbatch", "--parsable", "--ntasks=2", script, *words, cwd=tmp_path, LAUNCHER="torchrun"
    ).strip()
    log = tmp_path / "results" / "slurm" / f"erk-bench-{job}.log"
    out = Path(spec.out)
    await_that(lambda: len(list(out.glob("*/seconds/*.jsonl"))) == 2, "a block of each rank")
    cluster.call("scancel", "--signal=USR2", "--batch", job)
    await_that(lambda: "requeued, and goes on where it was" in log.read_text(), "the stop")
    stopped, text = stamps(out), log.read_text()
    assert "stopped, with its blocks finished" in text
    assert "SIGTERM" not in text and "Traceback" not in text, text
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    assert stopped and len(stopped) < len(stamps(out))
    now = stamps(out)
    assert all(now[path] == stamp for path, stamp in stopped.items())
    plain = small_run(*settings)
    generate([[plain]], Worker(), ignore, features=True)
    assert contents(spec) == contents(plain)


@pytest.mark.slurm
def test_requeues_are_bounded(cluster: Cluster, tmp_path: Path) -> None:
    """Crashes give up after MAX_CRASHES, stops after MAX_REQUEUES; what Slurm cancels does not come back."""
    (tmp_path / "results" / "slurm").mkdir(parents=True)
    script = str(ROOT / "slurm" / "generate.sbatch")

    def submit(**extra: str) -> str:
        found = {name: shutil.which(value) or value for name, value in extra.items()}
        return cluster.call("sbatch", "--parsable", script, cwd=tmp_path, **found).strip()

    def log(job: str) -> str:
        path = tmp_path / "results" / "slurm" / f"erk-bench-{job}.log"
        return path.read_text() if path.exists() else ""

    crashing = submit(ERK_BENCH="false", MAX_CRASHES="1")
    deaf = submit(ERK_BENCH="sleep", COMMAND="60", GRACE="2", MAX_REQUEUES="0")
    await_that(lambda: "starts on" in log(deaf), "the start")
    cluster.call("scancel", "--signal=USR2", "--batch", deaf)
    assert cluster.ended(deaf)["Restarts"] == "0"
    assert "blocks unfinished after 2 s" in log(deaf) and "not requeued, as it has been 0 times" in log(deaf)
    facts = cluster.ended(crashing)
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "1")
    assert "crashed with status 1, after 1 requeues for crashes; gave up" in log(crashing).splitlines()[-1]
    cancelled = submit(ERK_BENCH="sleep", COMMAND="60")
    await_that(lambda: "starts on" in log(cancelled), "the start")
    cluster.call("scancel", cancelled)
    facts = cluster.ended(cancelled)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")


@pytest.mark.slurm
def test_failed_submission_takes_back_the_arrays(cluster: Cluster, tmp_path: Path) -> None:
    words = ["grid=digits", "schedule.num_steps=4", "seeds=0-99", *SMALL, f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [str(LAUNCH), *words],
        cwd=tmp_path,
        env={**cluster.variables, "AGGREGATE_OPTIONS": "--partition=none", "SBATCH_OPTIONS": "--hold"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "invalid partition" in done.stderr, "sbatch's own message is shown"
    taken_back = re.search(r"the jobs submitted before it were cancelled: (\d+)", done.stderr)
    assert taken_back and cluster.facts(taken_back[1])["JobState"] == "CANCELLED"
