"""Runs that are complete are scored while others are sampled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs import launch
from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate
from erk_bench.runs.score import finished_record, score
from erk_bench.spec import RunSpec, Spec
from erk_bench.studies import records, score_ahead
from erk_bench.studies.records import compute_records
from erk_bench.studies.score_ahead import ScoreAhead, scoring_place, spare_threads
from tests.runs.test_generate import ignore

MakeSpec = Callable[..., RunSpec]


def runs(small_run: MakeSpec) -> list[RunSpec]:
    return [small_run("metrics.names=[fd_digits]", f"schedule.num_steps={steps}") for steps in (3, 4, 5)]


def test_complete_runs_are_scored_in_order_as_far_as_they_go(small_run: MakeSpec) -> None:
    first, second, third = runs(small_run)
    for spec in (first, third):
        generate([[spec]], Worker(), ignore, features=True)
    with ScoreAhead([first, second, third], enabled=True) as ahead:
        ahead.look()
        assert ahead.record(first) == finished_record(first)
        assert ahead.record(second) is None and ahead.record(third) is None  # the second is not complete
        generate([[second]], Worker(), ignore, features=True)
        ahead.look()
        assert ahead.record(third) == finished_record(third)


def test_the_first_rows_are_scored_before_the_last_is_sampled(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs; the records are those of scoring at the end."""
    specs, order = runs(small_run), list[str]()
    monkeypatch.setattr(score_ahead, "LOOK_S", 0.0)
    monkeypatch.setattr(records, "ScoreAhead", lambda todo: ScoreAhead(todo, enabled=True))

    def scored(spec: Spec, *rest: object, **more: bool) -> object:
        order.append(f"scored {spec.slug}")
        return score(spec, *rest, **more)  # type: ignore[arg-type]  # as it was called

    class Watched(Tracker):
        def advance(self, spec: Spec, images: int) -> None:
            order.append(f"block {spec.slug}")

    monkeypatch.setattr(score_ahead, "score", scored)
    found = compute_records([[spec] for spec in specs], title="test", tracker=Watched())
    assert found is not None and list(found) == [spec.run_id for spec in specs]
    last_block = max(place for place, what in enumerate(order) if what.startswith("block"))
    assert order.index(f"scored {specs[0].slug}") < last_block
    assert all(found[spec.run_id] == finished_record(spec) for spec in specs)


def test_on_processors_nothing_is_scored_ahead(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take their time, and move the times that are measured."""
    monkeypatch.setattr(score_ahead, "LOOK_S", 0.0)
    monkeypatch.setattr(score_ahead, "score", None)
    assert compute_records([runs(small_run)], title="test", tracker=Tracker()) is not None


def test_a_parent_of_workers_opens_no_context(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr("erk_bench.runs.device.set_up_device", None)  # it would take GPU 0
    spec = small_run("workers=null", "device=auto")
    assert launch.default_workers(spec) == 8
    assert scoring_place(spec).device == torch.device("cpu")


def test_processes_of_a_machine_share_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert spare_threads() == 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert spare_threads() == 8
