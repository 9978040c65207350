"""The command line: composition, help, suggestions, the commands end to end on a few digits."""

from __future__ import annotations

import csv
import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench import draw, load_denoiser, sample
from erk_bench.base import stopping
from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import BusyError, DamagedError, UserError, WorkerLostError
from erk_bench.base.fields import identity_fields
from erk_bench.cli import main
from erk_bench.commands import COMMANDS, compose_studies
from erk_bench.commands.actions import table as table_action
from erk_bench.commands.compose import compose_config, run_spec
from erk_bench.commands.compose_studies import grid_file, table_file
from erk_bench.commands.settings import groups
from erk_bench.networks.decoders import DECODERS
from erk_bench.runs.cost import count_evaluations
from erk_bench.runs.equation import equation_of
from erk_bench.runs.export import images_of
from erk_bench.runs.records import read_record
from erk_bench.sampling.corrections import CORRECTIONS
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec
from erk_bench.studies.table_file import RowSpec, TableFile
from tests.conftest import DATA, golden_path, slow_but

SMALL = ["schedule.num_steps=3", "seeds=0-39", "block_size=8", "workers=1", "device=cpu",
         "metrics.num_groups=5", "metrics.kid_subset_size=20"]  # fmt: skip

CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_config_composes(group: str, choice: str) -> None:
    """The files have the defaults of the code: none of a part's own options is set."""
    spec = run_spec([f"{group}={choice}"], fetch=False)
    if group in ("solver", "schedule", "guidance", "correction"):
        assert getattr(spec, group).options == ()
    if group in ("model", "solver", "schedule", "guidance", "correction"):
        assert getattr(spec, group).name == choice


TABLES = [file.stem for file in sorted((config_folder() / "table").glob("*.yaml"))]


@cache
def table_runs(name: str) -> list[RunSpec]:
    """The specs of all rows of a table."""
    table = table_file(name)
    return compose_studies.table_runs(table, [], fetch=False)[1]


@pytest.mark.parametrize("name", slow_but(TABLES, {"digits", "cifar32", "convergence", "edm2", "table4"}))
def test_every_table_row_composes(name: str) -> None:
    """Each is another run, and how many evaluations it takes is known without its networks."""
    specs = table_runs(name)
    assert len({json.dumps(identity_fields(spec)) for spec in specs}) == len(table_file(name).rows) > 0
    assert all(sum(count_evaluations(spec)) > 0 for spec in specs)


def test_few_steps_of_heun_stand_beside_solvers_of_equal_cost() -> None:
    specs = table_runs("heun-today")
    for steps, guided in ((4, False), (6, False), (8, False), (16, False), (4, True), (8, True), (16, True)):
        nfe = 2 * steps - 1
        here = [spec for spec in specs if count_evaluations(spec) == (nfe, guided * nfe)]
        heun = [spec.correction.name for spec in here if spec.solver.name == "heun"]
        assert heun == ["none", "erk_guid", "erk_dx"]
        assert [spec.solver.name for spec in here][3:] == [
            "deis",
            *["ipndm", "dpmpp", "unipc"] * (not guided),
        ]


def test_the_published_interval_is_levels_17_to_22() -> None:
    """As its authors' program has it, of 32 levels, from 0 on."""
    specs = [spec for spec in table_runs("edm2-guidance") if "xxl" in spec.model.name]
    (spec,) = [spec for spec in specs if spec.guidance.interval[0]]
    low, high = spec.guidance.interval
    levels = equation_of(spec).levels
    assert [index for index, sigma in enumerate(levels) if low < sigma <= high] == [*range(17, 23)]


def test_a_guidance_may_take_the_network_of_autoguidance() -> None:
    settings = ["guidance=apg", "guidance.weight=1.5"]
    of = {
        role: guide.sha256
        for role in ((), ("guidance.role=unconditional",), ("guidance.role=weaker",))
        if (guide := run_spec([*settings, *role]).guidance.guide)
    }
    autoguidance = run_spec(["guidance=autoguidance", "guidance.weight=1.5"]).guidance.guide
    assert autoguidance and of[("guidance.role=weaker",)] == autoguidance.sha256
    assert of[()] == of[("guidance.role=unconditional",)] != autoguidance.sha256
    own = f"guidance={config_folder().parent / 'examples/my_guidance.py'}:bell"
    found = run_spec([own, "guidance.weight=2", "guidance.role=weaker"]).guidance.guide
    assert found and found.sha256 == autoguidance.sha256
    with pytest.raises(UserError, match="unknown guidance.role 'weak'; did you mean 'weaker'"):
        run_spec([*settings, "guidance.role=weak"])


def test_history_alone_needs_no_unconditional_network() -> None:
    settings = ["model=edm2-img64-s-fid", "guidance=higs"]
    spec = run_spec([*settings, "guidance.weight=1"], fetch=False)
    assert spec.guidance.active and spec.guidance.guide is None and len(spec.networks) == 1
    assert count_evaluations(spec) == (63, 0) and "higs1" in spec.slug
    with pytest.raises(UserError, match="no 'unconditional' network for guidance=higs"):
        run_spec([*settings, "guidance.weight=1.5"], fetch=False)


def test_digits_table_has_all_rows() -> None:
    """Steps 4 to 32 x {Heun, ERK-Guid, erk_dx} x {no guidance, CFG, autoguidance}, and plain solvers."""
    specs = table_runs("digits")
    pairs = [spec for spec in specs if spec.solver.name == "heun"]
    found = {(s.schedule.num_steps, s.correction.name, s.guidance.name) for s in pairs}
    wanted = {
        (steps, correction, guidance)
        for steps in (4, 6, 8, 16, 32)
        for correction in ("none", "erk_guid", "erk_dx")
        for guidance in ("none", "cfg", "autoguidance")
    }
    assert found == wanted and len(pairs) == 45 and len(specs) == 54
    for spec in specs:
        assert (spec.correction.name != "none") == (spec.correction.w_stiff > 0)
    costs = {(spec.guidance.name, count_evaluations(spec)) for spec in specs if spec.solver.name != "heun"}
    few = [spec for spec in pairs if spec.schedule.num_steps <= 8]
    assert costs == {(spec.guidance.name, count_evaluations(spec)) for spec in few} and len(costs) == 9


@pytest.mark.results
def test_plain_solvers_of_the_digits_table_are_best_on_other_seeds() -> None:
    """As its caption says, by the committed grid."""
    grid = grid_file("digits_equal_cost")
    text = (config_folder().parent / "results/grids/digits_equal_cost.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(grid.places())
    specs = table_runs("digits")
    assert "seeds=1000000-1000999" in grid.base and specs[0].seeds == "0-999"
    for plain in (spec for spec in specs if spec.solver.name != "heun"):
        place = (plain.guidance.name, str(plain.schedule.num_steps))
        here = [row for row in rows if (row["guidance"], row["schedule.num_steps"]) == place]
        assert {row["solver"] for row in here} == set(grid.axes["solver"])
        assert min(here, key=lambda row: float(row["fd_digits"]))["solver"] == plain.solver.name


@pytest.mark.results
@pytest.mark.parametrize(
    "name",
    ["digits", "digits-table4", "digits-corrections", "digits-angle", "digits-rivals", "digits-guidance",
     "rivals-convergence", "convergence"],
)  # fmt: skip
def test_digits_table_rows_have_committed_records(name: str) -> None:
    """The run_id of each published row is pinned by its record: a change of samples must be recorded anew."""
    folder = config_folder().parent / str(table_file(name).reference)
    assert len(list(folder.glob("*.json"))) == len(table_runs(name))
    for spec in table_runs(name):
        record = read_record(folder / f"{spec.run_id}.json")
        assert record.run_spec.digest == spec.digest
        assert record.seeds == spec.seeds


def test_storks_records_keep_the_schedule_that_they_were_made_with() -> None:
    """The default has changed since; the table names the old one."""
    now = run_spec(["solver=stork", "schedule.num_steps=5"]).schedule
    assert (now.name, now.rho) == ("time_uniform", 2.0)
    old = [spec.schedule for spec in table_runs("digits-table4") if spec.solver.name == "stork"]
    assert len(old) == 6 and {(each.name, each.rho) for each in old} == {("time_uniform", 1.0)}
    asked = run_spec(["solver=stork", "schedule=time_uniform", "schedule.rho=1", "schedule.num_steps=5"])
    assert asked.run_id == "digits-stork5-09ad940b82"


def test_the_angle_brings_its_noise_levels() -> None:
    spec = run_spec(["solver=angle", "schedule.num_steps=5"])
    assert (spec.schedule.name, spec.schedule.rho, spec.solver.denoise_to_zero) == ("angle", 1.0, False)
    other = run_spec(["solver=deis", "schedule=angle", "schedule.sigma_data=0.7"]).schedule
    assert (other.name, other.rho, other.options) == ("angle", 1.0, (("sigma_data", 0.7),))


# The table's own: what else SOLVERS has is for tables to come.
TABLE4_SOLVERS = ["deis", "dpm2", "dpmpp", "euler", "heun", "ipndm", "ipndm_v", "stork", "unipc"]


def test_few_evaluations_are_compared_at_equal_cost() -> None:
    """Every solver of the zoo at each cost, the paper's three with ERK-Guid, and levels of the angle."""
    specs = table_runs("digits-table4")
    in_angle = [spec for spec in specs if spec.schedule.name == "angle"]
    fixed = [spec for spec in specs if spec.solver.name != "heun_adaptive" and spec not in in_angle]
    for nfe in (4, 6, 8, 10, 12, 16):
        levels = [spec for spec in in_angle if count_evaluations(spec) == (nfe, 0)]
        assert [spec.solver.name for spec in levels] == ["angle", "angle", "angle", "deis", "unipc", "ipndm"]
        assert [bool(spec.correction.w_stiff) for spec in levels] == [False, False, True, False, False, False]
        here = [spec for spec in fixed if count_evaluations(spec) == (nfe, 0)]
        plain = [spec.solver.name for spec in here if not spec.correction.w_stiff]
        assert sorted(plain) == TABLE4_SOLVERS
        assert [spec.solver.name for spec in here if spec.correction.w_stiff] == ["heun", "dpm2", "deis"]
    assert len(fixed) == 72 and len(specs) == 75 + 36


def test_table_4_counts_evaluations_as_published() -> None:
    """Its known cells, each at its own number of evaluations."""
    rows, specs = table_file("table4").rows, table_runs("table4")
    found: dict[str, dict[float, float]] = {}
    for row, spec in zip(rows, specs, strict=True):
        nfe, _ = count_evaluations(spec)
        if row.published:
            found.setdefault(spec.solver.name, {})[nfe] = row.published["fid"]
        else:
            assert nfe == 6 and row.group == spec.solver.name and spec.correction.w_stiff
    assert found == {
        "euler": {5: 43.81, 6: 34.03, 8: 22.59, 10: 16.72},
        "heun": {6: 89.63, 8: 37.65, 10: 16.46},
        "dpm2": {6: 44.83, 8: 12.42, 10: 6.84},
        "dpmpp": {5: 25.49, 6: 15.06, 8: 7.84, 10: 5.67},
        "unipc": {5: 24.36, 6: 14.30, 8: 7.52, 10: 5.53},
        "deis": {5: 14.75, 6: 12.57, 8: 6.84, 10: 5.34},
        "ipndm": {5: 18.99, 6: 12.92, 8: 7.20, 10: 5.11},
    }


def test_tables_and_groups_agree() -> None:
    """A registry key and its file under configs/ are the same string."""
    found = groups()
    assert found["solver"] == sorted(SOLVERS)
    assert found["schedule"] == sorted(SCHEDULES)
    assert found["guidance"] == sorted(GUIDANCES)
    assert found["correction"] == sorted(CORRECTIONS)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "solver=huen",
            "unknown solver 'huen'; did you mean 'heun'? Known: angle, deis, dpm2, ",
        ),
        ("num_step=8", "did you mean 'schedule.num_steps'"),
        ("schedule.num_step=8", "did you mean 'schedule.num_steps'"),
        ("sovler=heun", "did you mean 'solver'"),
        ("heun", "'heun' is no setting; write KEY=VALUE"),
        ("schedule.num_steps=abc", "schedule.num_steps is 'abc'; expected int"),
        ("seeds=1000", "seeds is 1000; expected FIRST-LAST"),
        ("seeds=4294967290-4294967300", "below 2^32"),
        ("seeds=0-99999999999999", "below 2^32"),
        ("block_size=1000000000", "it must be 1 to 65536"),
        ("out=", "out is empty"),
        ("model.weights=5", "model.weights is 5; set its file"),
        ("guidance.name=[a]", "guidance.name is ['a']"),
        ("~guidance.name=none", "write KEY=VALUE, for example guidance.name=none"),
        ("+solver=heun", "write KEY=VALUE, for example solver=heun"),
        ("--seeds=0-9", "write KEY=VALUE, for example seeds=0-9"),
        ("seeds=0-9,20-29", "give one value a setting"),
        ("schedule.rho=1e-3", "it must be 0.5 to 100"),
        ("guidance.weight=-3", "add guidance=cfg"),
        ("guidance.interval=3", "expected a list, for example [0.2,2.0]"),
        ("correction.w_stiff=0.5", "add correction=erk_guid"),
        ("correction.w_con=inf", "it must be 0 or more, and finite"),
        ("solver.s_noise=-1", "it must be 0 or more, and finite"),
        ("solver=euler,heun", "unknown solver 'euler,heun'"),
        ("model.weights.path=absent.pkl", "no file at 'absent.pkl'"),
        ("model.weights.path=https://example.org/net.pkl", "is not in the cache, and offline=true"),
        ("model.decoder=rgbb", "did you mean 'rgb'"),
        ("metrics.names=[fid_digits]", "did you mean 'fd_digits'"),
        ("metrics.reference=digit", "did you mean 'digits'"),
        ("guidance.interval=[1,", "cannot read the settings"),
    ],
)
def test_typos_are_named(override: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", override]) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert "Traceback" not in printed


def test_unpaired_solver_refuses_erk_guid() -> None:
    with pytest.raises(UserError, match="no embedded pair.*heun"):
        run_spec(["solver=euler", "correction=erk_guid"])


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UserError("a mistake"), 2, "a mistake"),
        (WorkerLostError("a worker is lost"), 70, "a worker is lost"),
        (BusyError("busy"), 75, "busy"),
        (stopping.Stopped(), 75, "stopped as SIGUSR2 asked"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (stopping.Terminated(), 143, "terminated"),
    ],
)
def test_each_end_has_its_status(
    error: BaseException,
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of the table in docs/slurm.md; 0 and 1 are in the tests of tables."""

    def ends(options: dict[str, str], words: list[str]) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, "doctor", dataclasses.replace(COMMANDS["doctor"], run=ends))
    assert main(["doctor"]) == status
    printed = capsys.readouterr()
    assert printed.err.startswith(f"erk-bench: {told}") and printed.err.count("\n") == 1 and not printed.out
    table = (Path(__file__).parent.parent / "docs" / "slurm.md").read_text()
    assert f"| {status} |" in table


def test_a_command_that_finds_damage_is_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has set the files aside; not for ever."""
    left = 2

    def ends(options: dict[str, str], words: list[str]) -> int:
        nonlocal left
        left -= 1
        if left >= 0:
            raise DamagedError("a file is damaged")
        return 0

    monkeypatch.setitem(COMMANDS, "doctor", dataclasses.replace(COMMANDS["doctor"], run=ends))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "warning: a file is damaged\n" * 2
    left = 100
    assert main(["doctor"]) == 2


@pytest.mark.slow
def test_damaged_images_of_a_finished_table_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later reader, the sheet of samples, finds them; the same launch makes them."""
    file = tmp_path / "own.yaml"
    file.write_text(
        "name: own\ntitle: T\ncaption: C\nheadline: fd_digits\nrows: [[], [schedule.num_steps=4]]\n"
        f"base: {json.dumps([*SMALL, 'metrics.names=[fd_digits]', f'out={tmp_path}'])}\n"
    )
    assert main(["table", f"table={file}"]) == 0
    paths = sorted(tmp_path.glob("*/images/*.safetensors"))
    good = {path: path.read_bytes() for path in paths}
    sheet = (tmp_path / "tables" / "own-samples.png").read_bytes()
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    assert main(["table", f"table={file}"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "tables" / "own-samples.png").read_bytes() == sheet
    healed = {path for path in paths if path.read_bytes() == good[path]}
    assert healed and all(path.with_suffix(".damaged").is_file() for path in healed)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabel"]) == 2
    assert "did you mean 'table'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_main_help_lists_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("erk-bench 0.")


def test_run_then_evaluate_then_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SMALL, f"out={tmp_path / 'runs'}"]
    assert main(["evaluate", *settings]) == 2
    assert "5 of 5 blocks are missing" in capsys.readouterr().err
    assert main(["generate", *settings]) == 0
    assert main(["evaluate", *settings]) == 0
    assert "FD-digits" in capsys.readouterr().out
    assert main(["run", *settings]) == 0
    assert "record:" in capsys.readouterr().out
    assert main(["export", *settings, "format=npz", f"to={tmp_path / 'out.npz'}"]) == 0
    with np.load(tmp_path / "out.npz") as stored:
        assert stored["arr_0"].shape == (40, 8, 8, 3) and stored["arr_0"].dtype == np.uint8
        assert stored["arr_1"].shape == (40,)
        first = stored["arr_0"][3]
    assert main(["export", *settings, f"to={tmp_path / 'png'}"]) == 0
    pictures = sorted((tmp_path / "png").rglob("*.png"))
    assert [path.name for path in pictures] == [f"{seed:06d}.png" for seed in range(40)]
    assert pictures[0].parent.name == "000000"
    assert np.array_equal(np.asarray(Image.open(pictures[3])), first[..., 0])
    assert main(["export", *settings, "format=jpg"]) == 2
    assert "Known: png, npz" in capsys.readouterr().err


@pytest.mark.slow
def test_table_compares_with_its_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1 without reference records or off them, 0 when reproduced."""
    reference = tmp_path / "reference"
    table = TableFile(
        "small", "A small table", "Two rows.", (*SMALL, f"out={tmp_path / 'runs'}"), "fd_digits",
        (RowSpec(()), RowSpec(("correction=erk_guid", "correction.w_stiff=0.5"))), reference=str(reference),
    )  # fmt: skip
    monkeypatch.setattr(table_action, "table_file", lambda name: table)
    assert main(["table"]) == 1
    assert f"2 of 2 rows have no record in {reference}" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["table", "workers=1"]) == 0  # not the published rows any more
    assert (
        f"2 of 2 rows are not compared with the reference records in {reference}" in capsys.readouterr().out
    )
    assert main(["table", f"records={reference}"]) == 0
    capsys.readouterr()
    assert main(["table"]) == 0
    assert "2 of 2 rows reproduced" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs" / "tables").iterdir()} == {
        "small.md", "small.csv", "small.tex", "small-steps.png", "small-steps.svg", "small-samples.png",
    }  # fmt: skip
    paper = tmp_path / "paper"
    assert main(["table", f"to={paper}", "style=paper", "columns=method,fd_digits"]) == 0
    assert (paper / "small-steps.pdf").read_bytes().startswith(b"%PDF")
    assert (paper / "small.csv").read_text().startswith("method,fd_digits,fd_digits_se\n")
    for word, told in (("style=papper", "did you mean 'paper'"), ("columns=fd_digit", "mean 'fd_digits'")):
        assert main(["table", word]) == 2
        assert told in capsys.readouterr().err
    capsys.readouterr()
    assert main(["table", "correction=none", "correction.w_stiff=0"]) == 0
    assert "1 of 1 rows reproduced" in capsys.readouterr().out  # equal rows are one row
    path = sorted(reference.glob("*.json"))[0]
    record = json.loads(path.read_text())
    record["metrics"]["fd_digits"]["value"] += 2 * record["metrics"]["fd_digits"]["standard_error"]
    path.write_text(json.dumps(record))
    assert main(["table"]) == 1
    printed = capsys.readouterr()
    assert "OFF by 2.00 SE" in printed.out and "1 of 2 rows are off" in printed.err
    assert main(["table", f"from={tmp_path / 'empty'}"]) == 2
    assert "2 of 2 runs have no record" in capsys.readouterr().err


def test_too_few_seeds_are_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "seeds=0-9", f"out={tmp_path / 'runs'}"]) == 2
    told = capsys.readouterr().err
    assert (
        "10 images are too few for 50 jackknife groups, which need 100; use more seeds, at least 500" in told
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_plan_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SMALL, f"out={tmp_path / 'runs'}", "guidance=cfg"]
    assert main(["plan", *settings]) == 0
    printed = capsys.readouterr().out
    assert "0 / 5" in printed and "5 + 5" in printed and "400 network evaluations" in printed
    assert not (tmp_path / "runs").exists()
    assert main(["plan", "table=digits", "seeds=0-124", f"out={tmp_path / 'runs'}"]) == 0
    assert (
        capsys.readouterr().out.count("0 / 1 ") == 54 + 6
    )  # rows, and the converged solutions with their checks


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "a.safetensors"
    assert main(["convert", str(golden_path("a")), str(target)]) == 0
    assert "Precond, 182,267 values" in capsys.readouterr().out and target.is_file()
    assert main(["convert", str(golden_path("a"))]) == 2
    assert "two paths" in capsys.readouterr().err
    assert main(["convert", str(golden_path("a")), "a.pt"]) == 2
    assert "'a.pt' must end in .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "words", "use"),
    [
        ("sit_a.pt", ["family=sit", "num_heads=2"], "model=PRESET model.weights.path="),
        ("jit_a_ema1.safetensors", ["family=jit", "in_context_start=1"], "model.decoder=rgb_rounded"),
    ],
)
def test_convert_a_family(
    file: str, words: list[str], use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "a.safetensors")
    assert main(["convert", str(DATA / "flow" / file), target, *words]) == 0
    printed = capsys.readouterr().out
    assert "DiffusionTransformer" in printed and use in printed
    assert main(["convert", str(DATA / "flow" / file), target, words[0].replace("it", "at")]) == 2
    assert "unknown family" in capsys.readouterr().err


@pytest.mark.slow
def test_train_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "networks=[wekaer]"]) == 2
    assert "did you mean 'weaker'" in capsys.readouterr().err
    for settings, named in (
        (["networks=weaker"], "write networks=[denoiser,weaker]"),
        (["networks=[weaker]", "weaker=5"], "weaker is 5"),
        (["networks=[weaker]", "workers=-1"], "workers is -1"),
        (["networks=[weaker]", "weaker.iterations=0"], "iterations is 0"),
    ):
        assert main(["train", *settings, f"out={tmp_path}"]) == 2
        assert named in capsys.readouterr().err
    assert main(["train", "networks=[weaker]", "weaker.iteration=3"]) == 2
    assert "did you mean 'weaker.iterations'" in capsys.readouterr().err
    settings = ["networks=[weaker]", "weaker.iterations=3", f"out={tmp_path}"]
    assert main(["train", *settings]) == 0
    record = json.loads((tmp_path / "weaker.json").read_text())
    assert record["recipe"]["iterations"] == 3


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed and "model digits" in printed and "no problems found" in printed
    assert main(["doctor", "now"]) == 2


def test_defaults_are_the_documented_ones() -> None:
    content = compose_config("run", [])
    assert content["solver"]["name"] == "heun" and content["schedule"]["num_steps"] == 32


TABLE_HEAD = "name: x\ntitle: x\ncaption: x\nbase: []\nheadline: fid\n"


def test_cells_that_are_not_known_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(
        TABLE_HEAD + "rows: [{set: [], published: {fid: 2.5, fd_dinov2: }}]\n"
        "published: {source: a, sets: 1, images: 10, tolerance: 0.1}\n"
    )
    assert table_file(str(file)).rows[0].published == {"fid": 2.5}


@pytest.mark.parametrize("override", ["schedule.num_steps=4", "track=imagenet64", "metrics.reference=a.npz"])
def test_published_values_hold_for_the_tables_own_rows(override: str) -> None:
    table = table_file("table2")
    rows, _ = compose_studies.table_runs(table, ["seeds=0-99"], "0", fetch=False)
    assert rows[0].published == {"fid": 2.58, "fd_dinov2": 90.1}
    rows, _ = compose_studies.table_runs(table, [override], "1", fetch=False)
    assert not rows[0].published and rows[0].group is None


@pytest.mark.slow
def test_tables_of_a_track() -> None:
    """What `make reproduce-table TRACK=imagenet512 TABLE=2` asks for."""
    assert table_file("imagenet512/table2").name == "table2"
    with pytest.raises(UserError, match="unknown table of track 'imagenet64' 'table2'"):
        table_file("imagenet64/table2")
    assert table_file("imagenet64/table4").name == "table4"
    assert table_file("digits/table4").name == "digits-table4"
    with pytest.raises(UserError, match="unknown table of track 'digits' 'table3'; .* Known: .*digits"):
        table_file("digits/table3")


def test_own_table_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    small = ", ".join([*SMALL, f"out={tmp_path / 'runs'}"])
    file.write_text(
        f"name: mine\ntitle: Mine\ncaption: Two rows.\nbase: [{small}]\nheadline: fd_digits\n"
        "rows: [[], {set: [solver=euler]}]\n"
    )
    assert main(["table", f"table={file}"]) == 0
    printed = capsys.readouterr().out
    assert "Euler" in printed and "nothing to compare with" in printed
    assert main(["table", f"table={file}", "rows=1", "sets=2"]) == 0
    assert "Values are means of 2 seed sets" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\n", "lacks 'title'"),
        ("[1, 2", "cannot read the table"),
        (
            "name: x\ntitle: x\ncaption: x\nbase: []\nheadline: fid\nrows: [{published: {fid: 1}}]\n",
            "has a row",
        ),
    ],
)
def test_broken_table_file(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    assert main(["table", f"table={tmp_path / 'broken.yaml'}"]) == 2
    assert told in capsys.readouterr().err
    assert main(["table", f"table={tmp_path / 'absent.yaml'}"]) == 2
    assert "which is no file; check the path" in capsys.readouterr().err


@pytest.mark.parametrize("sets", ["0", "-1", "two", "1.5"])
def test_bad_number_of_sets(sets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", f"sets={sets}"]) == 2
    assert f"sets is '{sets}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fetch", "imagenet"], "unknown track 'imagenet'; did you mean 'imagenet64'"),
        (["fetch", "imagenet512"], "11 of 11 files failed"),
        (["fetch", "edm2-img512-s-fid"], "is a model; write model=edm2-img512-s-fid"),
        (["fetch", "imagenet512", "dry_run=yes"], "dry_run is 'yes'; expected true or false"),
        (["fetch", "table=table2"], "6 of 6 files failed"),
        (
            ["run", "model=edm2-img512-s-fid", "guidance=cfg"],
            "has no 'unconditional' network for guidance=cfg",
        ),
        (["run", "model=edm2-img512-s-fid", "metrics.names=[fidd]"], "did you mean 'fid'"),
        (
            ["reference", "source=.", "resolution=8", "to=x.safetensors", "keep_features=1"],
            "keep_features is '1'",
        ),
        (["reference", "source=.", "resolution=8", "to=x.safetensors", "device=cuda"], "torch sees no GPU"),
        (["train", "device=cuda"], "torch sees no GPU"),
        (["train", "device=gpu"], "unknown device 'gpu'"),
        (["train", "dtype=half"], "unknown dtype 'half'"),
        (["train", "recipe=cifar32", "device=cpu"], "set dtype=float32 compiled=false"),
        (["run", "draw_device=cuda", "device=cpu"], "draw_device is 'cuda' but the device is a CPU"),
        (["reference"], "source is missing"),
        (["reference", "source=absent", "resolution=64", "to=x.safetensors"], "absent"),
        (["reference", "source=.", "resolution=big", "to=x.safetensors"], "resolution is 'big'"),
        (
            ["reference", "source=.", "resolution=8", "to=x.safetensors", "detectors=resnet"],
            "unknown detector",
        ),
        (["reference", "sources=."], "did you mean 'source'"),
        (["generate", "samples=none"], "would leave nothing"),
        (["run", "samples=jpg"], "unknown samples 'jpg'"),
        (["run", "model=edm2-img512-s-fid"], "is not in the cache, and offline=true"),
        (["run", "model=edm2-img512-s-fid", "solver=dpmpp"], "add solver.thresholding=false"),
        (["run", "model=edm2-img512-s-fid", "solver=unipc", "solver.thresholding=false"], "offline=true"),
        (["run", "metrics.reference=stats.npz"], "no file at 'stats.npz'"),
    ],
)
def test_mistakes_before_a_run(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_fetch_lists_what_a_run_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "model=edm2-img512-xxl-autog-dino", "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("7 files") and "CC BY-NC-SA 4.0" in printed and printed.count("missing") == 7


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["solver=deis", "solver.max_order=5"], "unknown solver.max_order of 'deis' '5'"),
        (["solver=deis", "solver.max_order=5"], "Known: 2, 3, 4"),
        (["solver=unipc", "solver.variant=bh3"], "Known: bh1, bh2"),
        (["solver=dpm2", "solver.r=1.5"], "solver.r is 1.5; with solver 'dpm2' it must be between 0 and 1"),
        (["solver=stork", "solver.stages=2"], "solver.stages is 2; with solver 'stork' it must be 3 to 1000"),
        (["solver=heun", "solver.r=0.5"], "unknown setting 'solver.r'"),
        (["solver=deis", "schedule.num_steps=1"], "num_steps is 1"),
        (["solver=ipndm", "schedule=logsnrr"], "did you mean 'logsnr'"),
        (["solver=dpmpp", "correction=erk_guid"], "or one of these solvers: heun, dpm2, deis"),
        (["guidance=cfgpp", "guidance.weight=1.5"], "must be 0 to 1"),
        (["guidance=apg", "guidance.weight=2", "guidance.eta=3"], "guidance.eta is 3"),
        (["guidance=fdg", "guidance.coarse=[a]"], "guidance.coarse is ['a']; with guidance 'fdg' it must be"),
        (["guidance=fdg", "guidance.parallel=[1]"], "guidance.coarse=[1.2] there are 2 bands"),
        (["solver=dpm2", "solver.r=[1,2]"], "solver.r is [1, 2]; with solver 'dpm2' it must be between"),
    ],
)
def test_what_a_solver_or_guidance_cannot_do_is_told(
    settings: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *settings]) == 2
    printed = capsys.readouterr().err
    assert named in printed and "Traceback" not in printed


# Settings, and the same as options of `sample`.
GUIDED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "cfgpp": (
        ["guidance=cfgpp", "guidance.weight=0.6", "solver=euler"],
        {"guidance_method": "cfgpp", "guidance": 0.6, "solver": "euler"},
    ),
    "apg": (
        ["guidance=apg", "guidance.weight=1.5", "guidance.momentum=-0.5", "guidance.norm_threshold=5"],
        {
            "guidance_method": "apg", "guidance": 1.5,
            "guidance_options": {"momentum": -0.5, "norm_threshold": 5.0},
        },
    ),
    "fdg": (
        ["guidance=fdg", "guidance.weight=1.5", "guidance.coarse=[1,0.5]", "guidance.parallel=[1,0.5,0]"],
        {
            "guidance_method": "fdg", "guidance": 1.5,
            "guidance_options": {"coarse": [1.0, 0.5], "parallel": [1.0, 0.5, 0.0]},
        },
    ),
    "higs": (
        ["guidance=higs", "guidance.weight=1", "guidance.cutoff=-1", "guidance.eta=0.5"],
        {"guidance_method": "higs", "guidance_options": {"cutoff": -1.0, "eta": 0.5}},
    ),
    "apg-erk": (
        ["guidance=apg", "guidance.weight=1.5",
         "correction=erk_guid", "correction.w_stiff=1"],
        {"guidance_method": "apg", "guidance": 1.5, "w_stiff": 1.0},
    ),
    "deis-erk": (
        ["solver=deis", "correction=erk_guid", "correction.w_stiff=1"],
        {"solver": "deis", "w_stiff": 1.0},
    ),
    "dpmpp": (
        ["solver=dpmpp", "solver.max_order=2", "solver.thresholding=false",
         "guidance=cfg", "guidance.weight=1.5"],
        {"solver": "dpmpp", "max_order": 2, "thresholding": False, "guidance": 1.5},
    ),
    "adaptive": (
        ["solver=heun_adaptive", "solver.tolerance=0.2", "guidance=cfg", "guidance.weight=1.5"],
        {"solver": "heun_adaptive", "tolerance": 0.2, "guidance": 1.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GUIDED)
def test_the_command_line_makes_the_images_of_the_python_api(tmp_path: Path, name: str) -> None:
    settings, options = GUIDED[name]
    settings = [*SMALL, "schedule.num_steps=4", "seeds=0-7", "samples=blocks", f"out={tmp_path}", *settings]
    assert main(["generate", *settings]) == 0
    made = np.stack([image for _, image, _ in images_of(run_spec(settings))])
    net = load_denoiser("digits")
    noise, labels = draw(range(8), net)
    if "guidance" in options:
        weights = config_folder().parent / "erk_bench/digits/weights/unconditional.safetensors"
        options = {**options, "guide": load_denoiser(weights)}
    x = sample(net, noise, labels, num_steps=4, **options)
    decode = DECODERS["digits"].decode
    assert decode is not None
    assert np.array_equal(made, decode(x).numpy().transpose(0, 2, 3, 1))
    plain = sample(net, noise, labels, num_steps=4)
    assert not torch.allclose(x, plain, atol=1e-3)


MY_SOLVER = """
from erk_bench import Node, Step


def step(slope, x, sigma, sigma_next, history, *, share=0.5):
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    middle = x - share * h * node.slope
    ahead = Node(middle, slope(middle, sigma - share * h), sigma - share * h)
    x_next = x - h * ((1 - 0.5 / share) * node.slope + 0.5 / share * ahead.slope)
    return Step(x_next, node, ahead, h, None)
"""


def test_a_solver_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes one file outside the package: options, ERK-Guid on its pair, and its identity in the run."""
    monkeypatch.chdir(tmp_path)
    Path("my_solver.py").write_text(MY_SOLVER)
    settings = [*SMALL, "seeds=0-39", "solver.path=my_solver.py:step", "out=runs"]
    assert main(["run", *settings]) == 0
    assert main(["run", *settings, "solver.share=0.75", "correction=erk_guid", "correction.w_stiff=1"]) == 0
    specs = [run_spec(settings), run_spec([*settings, "solver.share=0.75"])]
    assert specs[0].solver.name == "my_solver.step" and specs[0].digest != specs[1].digest
    capsys.readouterr()
    assert main(["run", *settings, "solver.shares=0.75"]) == 2
    assert "solver 'my_solver.step' has no option 'shares'; it has: share" in capsys.readouterr().err
    Path("my_solver.py").write_text(MY_SOLVER + "# changed\n")
    assert run_spec(settings).digest != specs[0].digest
    for text, named in (
        ("def step(x): pass", "a solver takes (slope, x, sigma, sigma_next, history)"),
        ("import absent_module", "cannot be imported: ModuleNotFoundError"),
        ("def stepp(): pass", "did you mean 'stepp'"),
    ):
        Path("my_solver.py").write_text(text)
        assert main(["run", *settings]) == 2
        assert named in capsys.readouterr().err
    assert main(["run", "solver.path=my_solver.py"]) == 2
    assert "expected FILE.py:NAME or package.module:NAME" in capsys.readouterr().err
    assert main(["run", "solver.path=absent.py:step"]) == 2
    assert "which does not exist" in capsys.readouterr().err
