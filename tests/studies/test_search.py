"""The search spends its budget and no more, finds a known minimum, and says how sure it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.actions.search import conclusions
from erk_bench.commands.compose import run_spec
from erk_bench.runs.records import MetricRecord, Record, read_record
from erk_bench.sampling.shared import Strength
from erk_bench.studies.search import (
    FINALISTS,
    STEP,
    MetricAtCost,
    Plan,
    SearchResult,
    Space,
    make_rungs,
    search,
)
from tests.studies.test_table import record_of
from tests.wandb_log import read_runs

SPACE = Space((0.1, 2.5), (0.0, 2.0))
PLAN = Plan(rungs=(100, 200, 400), sampled=(100, 200, 400), factor=2, nfe=10, budget=150_000, batch=8)
BEST = Strength(0.8, 0.5)


class Landscape:
    """A bowl around BEST with a ripple on few images; each image costs `share` of its evaluations."""

    def __init__(self, share: float = 1.0, sign: float = 1.0) -> None:
        self.share, self.sign = share, sign
        self.images: dict[Strength, int] = {}
        self.cost: dict[Strength, float] = {}
        self.calls: list[tuple[int, int]] = []

    def __call__(self, cells: Sequence[Strength], num_images: int) -> Mapping[Strength, MetricAtCost]:
        self.calls.append((len(cells), num_images))
        for cell in cells:
            added = num_images - self.images.get(cell, 0)
            self.cost[cell] = self.cost.get(cell, 0.0) + added * PLAN.nfe * self.share
            self.images[cell] = num_images
        return {
            cell: MetricAtCost(self.sign * self.value(cell, num_images), self.cost[cell]) for cell in cells
        }

    @property
    def evaluations(self) -> float:
        return sum(self.cost.values())

    @staticmethod
    def value(cell: Strength, num_images: int) -> float:
        bowl = (cell.w_stiff - BEST.w_stiff) ** 2 + (cell.w_con - BEST.w_con) ** 2
        return 1 + bowl + 5 / num_images * ((cell.w_stiff * 7 + cell.w_con * 11) % 1)


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.slow
def test_finds_the_bowl_within_its_budget(share: float, sign: float) -> None:
    measure = Landscape(share, sign)
    found = search(measure, SPACE, PLAN, lower=sign > 0, seed=1)
    winner = found.rungs[-1][1][0][0]
    assert abs(winner.w_stiff - BEST.w_stiff) < 0.3 and abs(winner.w_con - BEST.w_con) < 0.3
    assert found.evaluations == pytest.approx(measure.evaluations)
    assert 0.6 * PLAN.budget < measure.evaluations + PLAN.plain <= PLAN.budget
    assert [images for images, _ in found.rungs] == [100, 200, 400]


def test_promotes_the_best_of_each_rung_and_compares_within_one() -> None:
    measure = Landscape()
    found = search(measure, SPACE, PLAN, lower=True, seed=2)
    for (images, cells), (more, promoted) in zip(found.rungs, found.rungs[1:], strict=False):
        assert more > images and FINALISTS <= len(promoted) <= -(-len(cells) // 2)
        assert {cell for cell, _ in promoted} == {cell for cell, _ in cells[: len(promoted)]}
        assert [value for _, value in promoted] == sorted(measure.value(cell, more) for cell, _ in promoted)
    first = [cell for cell, _ in found.rungs[0][1]]
    assert len(set(first)) == len(first) == sum(count for count, images in measure.calls if images == 100)
    assert all(abs(cell.w_stiff / STEP - round(cell.w_stiff / STEP)) < 1e-6 for cell in first)


def test_the_same_seed_searches_the_same_and_another_does_not() -> None:
    first, again, other = (search(Landscape(), SPACE, PLAN, lower=True, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.rungs[0][1] != other.rungs[0][1]


@pytest.mark.slow
def test_promotions_that_share_less_than_exploring_stay_within_the_budget() -> None:
    class Dearer(Landscape):
        def __call__(self, cells: Sequence[Strength], num_images: int) -> Mapping[Strength, MetricAtCost]:
            self.share = 0.2 if num_images == 100 else 1.0
            return super().__call__(cells, num_images)

    found = search(Dearer(), SPACE, PLAN, lower=True, seed=1)
    assert found.evaluations + PLAN.plain <= PLAN.budget
    assert len(found.rungs[-1][1]) >= FINALISTS


def test_a_small_space_ends_the_search() -> None:
    measure = Landscape()
    found = search(measure, Space((0.5, 0.55), (0.5, 0.55)), PLAN, lower=True, seed=1)
    assert len(found.rungs[0][1]) <= 4
    assert measure.evaluations < PLAN.budget / 2


def test_too_small_a_budget_names_the_least() -> None:
    with pytest.raises(
        UserError, match=f"the least for 8 proposals on 100, 200, 400 images is {PLAN.least:,}"
    ):
        search(Landscape(), SPACE, PLAN._replace(budget=PLAN.least - 1), lower=True, seed=1)
    found = search(Landscape(), SPACE, PLAN._replace(budget=PLAN.least), lower=True, seed=1)
    assert len(found.rungs[0][1]) == 8


def test_optuna_is_as_talkative_as_before() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search(Landscape(), SPACE, PLAN._replace(budget=PLAN.least), lower=True, seed=1)
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


@pytest.mark.parametrize(
    ("seeds", "settings", "rungs", "sampled"),
    [
        (range(1000), (125, 2, 125), (125, 250, 500, 1000), (125, 250, 500, 1000)),
        (range(1000), (100, 3, 125), (125, 375, 1000), (125, 375, 1000)),
        (range(7000, 15_000), (1000, 2, 50), (1000, 2000, 4000, 8000), (1000, 2000, 4000, 8000)),
        (range(100), (100, 2, 100), (100,), (100,)),
        (range(100), (10, 2, 100), (100,), (100,)),
        # Seeds 124 to 250 lie in three blocks of 125: the first rung ends with the second.
        (range(124, 251), (15, 2, 125), (126, 127), (250, 375)),
        (range(90), (20, 2, 25), (25, 50, 90), (25, 50, 100)),
    ],
)
def test_rungs_end_with_blocks(
    seeds: range, settings: tuple[int, int, int], rungs: tuple[int, ...], sampled: tuple[int, ...]
) -> None:
    assert make_rungs(seeds, *settings) == (rungs, sampled)


A, B, C = Strength(0.5, 0.1), Strength(0.6, 0.1), Strength(0.7, 0.1)


def records(**values: tuple[float, list[float]]) -> dict[tuple[Strength | None, int], Record]:
    """Records on 10 images of the plain solver and cells A, B, C: a value and its jackknife replicates."""
    cells: dict[str, Strength | None] = {"plain": None, "a": A, "b": B, "c": C}
    made = {}
    for name, (value, replicates) in values.items():
        metric = MetricRecord(value, 0.1, tuple(replicates))
        made[(cells[name], 10)] = record_of(run_spec(["seeds=0-9"]), metrics={"fd_digits": metric})
    return made


def test_the_winner_is_told_with_its_distance_from_the_runner_up() -> None:
    found = records(plain=(3.0, [3.0, 3.0]), a=(1.0, [1.0, 1.2]), b=(1.0, [1.0, 1.2]), c=(1.3, [1.3, 1.3]))
    ranked = [(A, 1.0), (B, 1.0), (C, 1.3)]
    lines = conclusions(found, "fd_digits", SearchResult([(10, ranked)], 0.0))
    assert (
        lines[0].startswith("winner: w_stiff 0.5, w_con 0.1: FD-digits 1, -2.00 ± 0.10")
        and "better" in lines[0]
    )
    # B is A's equal; C differs by 0.3 with a jackknife error of sqrt(1/2 (2 0.1^2)) = 0.1
    assert "w_stiff 0.7, w_con 0.1, 3.0 standard errors away (+0.3 ± 0.1)" in lines[1]
    assert "winner of 3 cells flatters itself" in lines[2]
    lines = conclusions(found, "fd_digits", SearchResult([(10, ranked[:2])], 0.0))
    assert "every finalist has the same value" in lines[1]


SMALL = ["track=digits", "schedule.num_steps=4", "seeds=0-79", "block_size=20", "metrics.num_groups=5",
         "metrics.names=[fd_digits]", "workers=1", "device=cpu"]  # fmt: skip


@pytest.mark.slow
def test_search_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """80 images at 7 NFE: the budget buys a few cells; every line of the CSV is the record it names."""
    out = f"out={tmp_path / 'runs'}"
    words = ["search", *SMALL, out, "budget=6000", "first=20", "batch=4", f"to={tmp_path}", "tracker=wandb",
             "tracker.mode=offline", f"tracker.folder={tmp_path}"]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "winner: w_stiff" in said and "runner-up: " in said
    used = float(said.split("budget: ")[1].split(" of")[0].replace(",", ""))
    assert 1000 < used <= 6000
    (table,) = tmp_path.glob("*.csv")
    rows = list(csv.DictReader(table.open()))
    assert {row["images"] for row in rows} == {"20", "40", "80"}
    for row in rows:
        path = tmp_path / "runs" / row["run_id"] / "records" / f"0-{int(row['images']) - 1}.json"
        record = read_record(path)
        assert record.metrics["fd_digits"].value == float(row["fd_digits"])
        assert record.run_spec.correction.w_stiff == float(row["w_stiff"])
    best = min((row for row in rows if row["images"] == "80"), key=lambda row: float(row["fd_digits"]))
    assert f"winner: w_stiff {float(best['w_stiff']):g}, w_con {float(best['w_con']):g}" in said
    assert {path.suffix for path in tmp_path.glob("*-heun4-*")} == {".csv", ".png", ".svg"}
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "studies.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    assert str(tmp_path / "studies.journal") in said
    assert f"{float(best['fd_digits'])}" == f"{study.best_value}"
    assert study.best_params == {name: float(best[name]) for name in ("w_stiff", "w_con")}
    assert len(study.trials) == sum(row["images"] == "20" for row in rows)
    shown = read_runs(tmp_path)
    (launch,) = shown["launch"]
    (cells,) = launch.series(f"table/{launch.info.run_group}/path")
    assert len(json.loads((launch.folder / "files" / cells).read_text())["data"]) == len(rows)
    assert launch.summary["winner"] in said
    assert launch.summary["winner/fd_digits"] == study.best_value
    assert {name: launch.summary[f"winner/{name}"] for name in study.best_params} == study.best_params
    for summary in (shown["result"][-1].summary, {k[7:]: v for k, v in launch.summary.items()}):
        assert summary["verdict"] in ("better", "worse", "not resolved")
        assert (summary["difference"], summary["difference_se"]) == (
            float(best["difference"]), float(best["difference_se"]),
        )  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    assert main(words) == 0  # again: everything is there
    assert said.split("budget:")[1] in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget=100"], "the least for 8 proposals"),
        (["budget=many"], "budget is 'many'"),
        (["w_stiff=2:1"], "w_stiff is '2:1'; expected LOW:HIGH"),
        (["w_stiff=0:1"], "0 is the plain solver"),
        (["w_con=x"], "w_con is 'x'"),
        (["factor=1"], "factor is 1"),
        (["first=900"], "first is 900, more than the 80 images"),
        (["solver=euler"], "no embedded pair"),
        (["correction=erk_guid"], "leave out correction"),
        (["metrics.names=[fd_digitz]"], "did you mean 'fd_digits'"),
    ],
)
def test_bad_searches_are_told_before_anything_runs(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *SMALL, f"out={tmp_path / 'runs'}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_search_is_not_for_torchrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert main(["search", *SMALL, f"out={tmp_path / 'runs'}"]) == 2
    assert "WORLD_SIZE is 2; start it without torchrun" in capsys.readouterr().err
