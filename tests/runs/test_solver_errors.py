"""Solver errors from noise to record: states are kept, the solution comes first, all is found again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.reporting.trackers import lineage
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs.blocks import Worker
from erk_bench.runs.converged import converged_runs
from erk_bench.runs.cost import estimate
from erk_bench.runs.device import Place
from erk_bench.runs.generate import generate, to_sample, unfinished
from erk_bench.runs.needs import addresses_of
from erk_bench.runs.records import Record, read_record, record_text
from erk_bench.runs.sample_block import sample_block
from erk_bench.runs.score import finished_record, record_path, score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from erk_bench.studies.records import compute_records, prepare
from erk_bench.studies.verdicts import paired_difference

MakeSpec = Callable[..., RunSpec]
FEW = ("metrics.converged.num_steps=8", "seeds=0-15")  # steps of a solution for tests


def named(*names: str) -> str:
    return f"metrics.names=[{','.join(names)}]"


ALL = named("solver_error", "solver_error_median", "solver_error_q90", "solver_error@pixels",
            "solver_error@digits", "fd_digits")  # fmt: skip


def recorded(*specs: RunSpec, shared: bool = False) -> list[Record]:
    groups = [list(specs)] if shared else [[spec] for spec in specs]
    prepare(specs)
    found = compute_records(groups, title="t", tracker=Tracker(), shared=shared)
    assert found is not None
    return [found[spec.run_id] for spec in specs]


def states(spec: RunSpec) -> torch.Tensor:
    return sample_block(spec, spec.seed_range, Place.of(spec)).states.flatten(1).double()


def files(spec: RunSpec, kind: str) -> dict[str, bytes]:
    folder = RunStore.folder_of(spec)
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"{kind}/*.safe*"))
    }


def test_from_noise_to_record(small_run: MakeSpec) -> None:
    """The value is the distance of states sampled by hand; all rows share a solution and its check."""
    rows = [small_run(*FEW, ALL), small_run(*FEW, ALL, "solver=deis"), small_run(*FEW, ALL, "guidance=cfg",
            "guidance.weight=2")]  # fmt: skip
    plain, deis, guided = recorded(*rows)
    solution, check = converged_runs(rows[0])
    wanted = (states(rows[0]) - states(solution)).square().mean(1).sqrt()
    assert plain.metrics["solver_error"].value == pytest.approx(float(wanted.mean()), rel=1e-6)
    assert plain.metrics["solver_error_median"].value == pytest.approx(float(wanted.quantile(0.5)), rel=1e-6)
    assert len(plain.metrics["solver_error"].replicates) == 5
    assert plain.nfe == 7
    facts = plain.converged
    assert (facts["run_id"], facts["solver"], facts["num_steps"]) == (solution.run_id, "heun", 8)
    assert (facts["check"]["run_id"], facts["check"]["num_steps"]) == (check.run_id, 4)
    between = (states(check) - states(solution)).square().mean(1).sqrt().mean()
    assert facts["check"]["solver_error"] == pytest.approx(float(between), rel=1e-6)
    assert facts["check"]["solver_error@pixels"] > 0 and "fd_digits" not in facts["check"]
    assert deis.converged == facts != guided.converged
    assert guided.metrics["solver_error"].value != plain.metrics["solver_error"].value
    difference, error = paired_difference(plain, deis, "solver_error")
    assert difference == plain.metrics["solver_error"].value - deis.metrics["solver_error"].value
    assert 0 < error < 1
    folders = {path.name for path in Path(rows[0].out).iterdir() if (path / "run.json").is_file()}
    assert folders == {spec.run_id for spec in (*rows, solution, check, *converged_runs(rows[2]))}
    assert read_record(record_path(rows[0])) == plain
    assert recorded(*rows) == [plain, deis, guided]  # found again


def test_the_solution_itself_has_no_error(small_run: MakeSpec) -> None:
    spec = small_run(*FEW, named("solver_error", "solver_error@digits"), "schedule.num_steps=8")
    (record,) = recorded(spec)
    assert [metric.value for metric in record.metrics.values()] == [0.0, 0.0]
    assert record.run_id == record.converged["run_id"]


def test_error_alone_needs_no_reference_and_no_detector(small_run: MakeSpec) -> None:
    spec = small_run(
        *FEW, named("solver_error"), "metrics.reference=edm2:dataset-refs/img512.pkl", "offline=true"
    )
    assert addresses_of(spec) == [weights.path for weights in spec.weights]
    (record,) = recorded(spec)
    assert record.reference == {} and record.detectors == ("state-float32",)
    assert not json.loads(record_text(record))["reference"] and lineage.references(record) == []


def test_states_are_added_to_images_that_are_there(small_run: MakeSpec) -> None:
    """Without losing what is there: images stay byte for byte, and so do features."""
    before = small_run("seeds=0-15", named("fd_digits"))
    recorded(before)
    images, features = files(before, "images"), files(before, "features/*")
    after = small_run(*FEW, named("solver_error", "fd_digits"))
    assert after.run_id == before.run_id
    assert len(to_sample(after, unfinished(after, features=True))) == 2
    (record,) = recorded(after)
    assert files(after, "images") == images
    found = files(after, "features/*")
    assert {name: found[name] for name in features} == features
    assert {name.split("/")[1] for name in found} == {next(iter(features)).split("/")[1], "state-float32"}
    assert list(record.metrics) == ["solver_error", "fd_digits"]
    fresh = small_run(*FEW, named("solver_error", "fd_digits"), f"out={Path(before.out) / 'fresh'}")
    assert recorded(fresh)[0].metrics == record.metrics


def test_metrics_stay_beside_each_other_in_the_file(small_run: MakeSpec) -> None:
    (first,) = recorded(small_run("seeds=0-15", named("fd_digits")))
    error = small_run(*FEW, named("solver_error"))
    (second,) = recorded(error)
    assert second.reference == {} and list(second.metrics) == ["solver_error"]
    kept = read_record(record_path(error))
    assert set(kept.metrics) == {"fd_digits", "solver_error"}
    assert kept.reference == first.reference and kept.converged == second.converged
    (third,) = recorded(small_run(*FEW, named("solver_error@pixels")))
    assert set(third.converged["check"]) == {"run_id", "num_steps", "solver_error@pixels"}
    kept = read_record(record_path(error))
    assert set(kept.metrics) == {"fd_digits", "solver_error", "solver_error@pixels"}
    assert finished_record(small_run("seeds=0-15", named("fd_digits"))) == dataclasses.replace(
        first, created=kept.created, environment=kept.environment
    )


def test_another_solution_is_measured_anew(small_run: MakeSpec) -> None:
    recorded(small_run(*FEW, named("solver_error")))
    other = small_run(FEW[1], "metrics.converged.num_steps=6", named("solver_error"))
    assert finished_record(other) is None
    assert recorded(other)[0].converged["num_steps"] == 6


def test_states_in_half_precision(small_run: MakeSpec) -> None:
    whole, half = (small_run(*FEW, named("solver_error"), f"metrics.converged.states={kind}")
                   for kind in ("float32", "float16"))  # fmt: skip
    records = [recorded(spec)[0] for spec in (whole, half)]
    assert [record.detectors for record in records] == [("state-float32",), ("state-float16",)]
    values = [record.metrics["solver_error"].value for record in records]
    assert values[0] == pytest.approx(values[1], abs=1e-3) and values[0] != values[1]
    assert estimate(whole).feature_bytes == 2 * estimate(half).feature_bytes == 4 * 64


def test_cells_of_a_grid_keep_their_states(small_run: MakeSpec) -> None:
    """As separate runs have them."""
    cells = [("correction=none",), ("correction=erk_guid", "correction.w_stiff=1", "correction.w_con=0")]
    for shared in (True, False):
        specs = [small_run(*FEW, named("solver_error"), *cell, f"out=shared-{shared}") for cell in cells]
        values = [record.metrics["solver_error"].value for record in recorded(*specs, shared=shared)]
        if shared:
            together = values
    assert together == pytest.approx(values, rel=1e-5)
    assert together[0] != together[1]


def test_nothing_is_decoded_for_states_alone(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("erk_bench.runs.sample_block.decoder", refuse)
    spec = small_run(*FEW, named("solver_error"), "samples=none")
    (record,) = recorded(spec)
    assert record.metrics["solver_error"].value > 0
    assert not files(spec, "images")
    assert estimate(spec).decoder_flops == 0


def test_generate_keeps_states_too(small_run: MakeSpec) -> None:
    """So that `evaluate` finds them."""
    spec = small_run("seeds=0-15", named("solver_error", "fd_digits"))
    generate([[spec]], Worker(), lambda spec, count: None, features=False)
    assert [len(files(spec, kind)) for kind in ("images", "features/state-float32", "features/digits*")] == [
        2,
        2,
        0,
    ]
    assert unfinished(spec, features=False) == []
    next(RunStore.folder_of(spec).glob("images/*.safetensors")).unlink()
    assert len(unfinished(spec, features=False)) == 1
    generate([[spec]], Worker(), lambda spec, count: None, features=False)
    assert len(files(spec, "images")) == 2


def test_evaluate_tells_what_is_missing(
    small_run: MakeSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["seeds=0-15", "block_size=8", "workers=1", "device=cpu", "schedule.num_steps=4",
             "metrics.num_groups=5", f"out={tmp_path}", "metrics.converged.num_steps=8"]  # fmt: skip
    assert main(["generate", *words]) == 0
    words.append(named("solver_error"))
    assert main(["evaluate", *words]) == 2
    assert "final states of 2 of 2 blocks are missing (first: seeds 0-7)" in capsys.readouterr().err
    assert main(["generate", *words]) == 0
    assert main(["evaluate", *words]) == 2
    told = capsys.readouterr().err
    assert "2 of 2 blocks of the converged solution digits-heun8-" in told and "'erk-bench run'" in told
    assert main(["run", *words]) == 0
    capsys.readouterr()
    assert main(["evaluate", *words]) == 0
    told = capsys.readouterr().out
    assert "solver error" in told and "heun, 8 steps" in told
    wider = [*words, "seeds=0-23"]
    assert main(["generate", *wider]) == 0
    assert main(["evaluate", *wider]) == 2  # the solution has other seeds
    assert "1 of 3 blocks of the converged solution" in capsys.readouterr().err


def test_damaged_states_are_made_anew(small_run: MakeSpec) -> None:
    spec = small_run(*FEW, named("solver_error"))
    (record,) = recorded(spec)
    for run in (spec, converged_runs(spec).solution):
        path = next(RunStore.folder_of(run).glob("features/state*/*.safetensors"))
        path.write_bytes(path.read_bytes()[:-3] + b"abc")
    record_path(spec).unlink()
    with pytest.raises(UserError, match="2 files are damaged|is damaged"):
        score(spec)
    (again,) = recorded(spec)
    assert again.metrics == record.metrics


def test_without_sampling_a_missing_solution_is_an_error(small_run: MakeSpec) -> None:
    spec = small_run(*FEW, named("solver_error"), "schedule.num_steps=3")
    generate([[spec]], Worker(), lambda spec, count: None, features=True)
    with pytest.raises(UserError, match="2 runs are not complete"):
        compute_records([[spec]], title="t", tracker=Tracker(), sampling=False)


def test_fetch_gets_no_statistics(small_run: MakeSpec) -> None:
    alone = small_run("track=imagenet512", "model=digits", named("solver_error"))
    assert not [address for address in addresses_of(alone) if "refs" in address or "inception" in address]
    with_fd = small_run(
        named("solver_error", "fd@inception"), "metrics.reference=edm2:dataset-refs/img512.pkl"
    )
    assert "edm2:dataset-refs/img512.pkl" in addresses_of(with_fd)


def test_plan_counts_the_solution_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [named("solver_error"), "seeds=0-15", "block_size=8", "metrics.num_groups=5", f"out={tmp_path}",
             "metrics.converged.num_steps=8", "samples=none"]  # fmt: skip
    for steps, evaluations in ((3, 16 * (5 + 15 + 7)), (4, 16 * (7 + 15)), (8, 16 * (15 + 7))):
        assert main(["plan", *words, f"schedule.num_steps={steps}", "throughput=1"]) == 0
        assert f"to do: {evaluations} network evaluations" in capsys.readouterr().out
    assert main(["plan", "table=convergence", "rows=0,4", "throughput=1"]) == 0
    assert f"to do: {250 * (7 + 7 + 511 + 255):,} network evaluations" in capsys.readouterr().out
