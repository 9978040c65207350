"""Costs before a run: FLOPs from shapes, evaluations, disk, what is missing."""

from __future__ import annotations

import pytest

from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.networks.sizes import SIZES
from erk_bench.runs.cost import estimate, evaluation_flops
from tests.conftest import golden_facts


@pytest.mark.parametrize("name", ["edm2-img512-xs", "edm2-img512-s", "edm2-img64-s", "edm2-img512-xs-uncond"])
def test_flops_of_published_sizes(name: str) -> None:
    """EDM2's own count, in which a multiply-add is one operation, also counts element-wise ones: 1 to 2 %."""
    published = golden_facts("architectures_edm2")[name]["flops"]["total"]
    assert evaluation_flops(SIZES[name]) / 2 == pytest.approx(published, rel=0.02)


def test_cost_of_an_image_that_is_not_fetched() -> None:
    plain = estimate(run_spec(["model=edm2-img512-s-fid"], fetch=False))
    assert plain.flops == 63 * evaluation_flops(SIZES["edm2-img512-s"])
    assert plain.image_bytes == 3 * 512 * 512
    assert plain.feature_bytes == 4 * (2048 + 1008 + 1024)
    guided = estimate(run_spec(["model=edm2-img512-s-guid-fid"], fetch=False))
    assert guided.flops == plain.flops + 63 * evaluation_flops(SIZES["edm2-img512-xs-uncond"])


def test_plan_of_a_table_that_is_not_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table=table2", "rows=8,9", "throughput=100"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("(not fetched)") == 2 and printed.count("0 / 1000") == 2
    assert "to do: 1,500,000 network evaluations" in printed
    per_image = 15 * evaluation_flops(SIZES["edm2-img512-s"])
    hours = 2 * 50_000 * per_image / 100e12 / 3600
    assert f"about {hours:,.2f} GPU-hours at 100 TFLOP/s" in printed
    assert "missing: 6 files" in printed and "edm2:dataset-refs/img512.pkl" in printed
    assert "no images (they would take 78.6 GB)" in printed


def test_plan_of_several_seed_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table=table2", "rows=8", "sets=3", "throughput=100"]) == 0
    assert "to do: 2,250,000 network evaluations" in capsys.readouterr().out


def test_plan_without_a_rate_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=edm2-img64-s-fid", "device=cpu"]) == 0
    assert "give throughput=TFLOP/s" in capsys.readouterr().out


def test_plan_of_digits_is_timed_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "seeds=0-39", "device=cpu", "workers=2"]) == 0
    printed = capsys.readouterr().out
    assert "worker-hours on this machine" in printed and "missing" not in printed


@pytest.mark.parametrize("throughput", ["fast", "0", "-3", "inf", "nan"])
def test_bad_throughput(throughput: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=edm2-img64-s-fid", f"throughput={throughput}"]) == 2
    assert "expected TFLOP/s of one GPU" in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["10", "3-1", "x", "1-2-3", "0,99"])
def test_bad_rows(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table=table2", f"rows={rows}"]) == 2
    assert "expected numbers from 0 to 9" in capsys.readouterr().err


def test_the_same_network_as_guide_costs_twice_as_much() -> None:
    same = ["model.unconditional=same", "guidance=cfg", "guidance.weight=2"]
    cost, plain = estimate(run_spec(same)), estimate(run_spec([]))
    assert (cost.nfe, cost.nfe_guide, cost.flops) == (plain.nfe, plain.nfe, 2 * plain.flops)
