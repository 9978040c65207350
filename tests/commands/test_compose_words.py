"""The words that a record's page gives compose to the run of the record."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_words import words_of
from erk_bench.runs.record_folder import load_records
from tests.isolation import ROOT


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["solver=heun_adaptive", "solver.tolerance=0.2", "schedule.num_steps=3"],
        ["solver=deis", "schedule=polynomial", "correction=erk_guid", "correction.w_stiff=3", "seeds=5-1004"],
        [
            "guidance=cfg",
            "guidance.weight=1.5",
            "guidance.interval=[0.2,2.0]",
            "class_label=3",
            "block_size=7",
        ],
        [
            "guidance=autoguidance",
            "guidance.weight=2",
            "model.name='it\\'s, <b>'",
            "metrics.names=[fd_digits]",
        ],
        ["model=edm2-img512-s-fid", "guidance=none", "dtype=float64", "solver.s_churn=10"],
        ["model=edm-cifar10-32x32-uncond-vp", "solver=unipc", "seeds=0-49999"],
    ],
)
def test_words_compose_to_the_same_run(words: list[str]) -> None:
    spec = run_spec(words, fetch=False)
    again = run_spec(shlex.split(shlex.join(words_of(spec))), fetch=False)
    assert again == spec


@pytest.mark.slow
@pytest.mark.results
def test_committed_records_are_given_by_their_words() -> None:
    """One of each folder and solver: the same identity, seeds and metrics."""
    records = load_records(ROOT / "results" / "records")
    chosen = {(file.parent, each.run_spec.solver.name, each.run_spec.guidance.name): each
              for each, file in zip(records, records.files, strict=True)}  # fmt: skip
    assert len(chosen) > 10
    for record in chosen.values():
        again = run_spec(words_of(record.run_spec))
        assert (again.run_id, again.seeds) == (record.run_id, record.seeds)
        assert again.metrics == record.run_spec.metrics and Path(again.out) == Path("results/runs")
