"""Costs before a run: FLOPs from shapes, evaluations, disk, what is missing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from erk_bench.base.footprint import NOTHING
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.networks.sizes import SIZES
from erk_bench.runs.cost import detector_parts, estimate, evaluation_flops, parts_of
from tests.conftest import golden_facts

# Counted once, and beside formulas below.
VAE_FLOPS, INCEPTION_FLOPS, DINOV2_FLOPS = 2_514_518_933_504, 11_426_464_960, 162_023_964_672


@pytest.mark.parametrize("name", ["edm2-img512-xs", "edm2-img512-s", "edm2-img64-s", "edm2-img512-xs-uncond"])
@pytest.mark.slow
def test_flops_of_published_sizes(name: str) -> None:
    """EDM2's own count, in which a multiply-add is one operation, also counts element-wise ones: 1 to 2 %."""
    published = golden_facts("architectures_edm2")[name]["flops"]["total"]
    assert evaluation_flops(SIZES[name]) / 2 == pytest.approx(published, rel=0.02)


@pytest.mark.slow
def test_cost_of_an_image_that_is_not_fetched() -> None:
    plain = estimate(run_spec(["model=edm2-img512-s-fid"], fetch=False))
    assert plain.network_flops == 63 * evaluation_flops(SIZES["edm2-img512-s"])
    assert plain.image_bytes == 3 * 512 * 512
    assert plain.feature_bytes == 4 * (2048 + 1008 + 1024)
    guided = estimate(run_spec(["model=edm2-img512-s-guid-fid"], fetch=False))
    assert guided.network_flops == plain.network_flops + 63 * evaluation_flops(SIZES["edm2-img512-xs-uncond"])


@pytest.mark.slow
def test_decoder_and_detectors_are_counted() -> None:
    """Of their published architectures: no file is here. Multiply-adds as the literature has them."""
    spec = run_spec(["model=edm2-img512-s-fid", "metrics.names=[fid,fd_dinov2,precision]"], fetch=False)
    parts = parts_of(spec)
    assert parts.decoder is not None and parts.decoder.flops == VAE_FLOPS
    assert 4 * 83.6e6 <= parts.decoder.weights <= 4 * 83.7e6  # 83.65 million parameters
    found = detector_parts(spec)
    flops = {name: each.flops for name, each in found.items() if each is not None}
    assert flops["inception"] == INCEPTION_FLOPS == pytest.approx(2 * 5.71e9, rel=0.01)
    assert flops["vgg16"] == pytest.approx(2 * 15.47e9, rel=0.01)
    tokens, width = 1 + 16**2, 1024
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width  # linear layers; attention
    assert flops["dinov2_torch"] == 24 * block + 2 * 256 * 3 * 14**2 * width == DINOV2_FLOPS


def test_two_layers_of_one_pass_are_counted_once() -> None:
    def counted(names: str) -> list[str]:
        return list(detector_parts(run_spec([f"metrics.names=[{names}]"])))

    assert counted("fid,sfid") == ["inception"]
    assert counted("sfid") == ["inception_spatial"]


def test_pixel_models_have_no_decoder_to_count() -> None:
    parts = parts_of(run_spec(["model=edm2-img64-s-fid"], fetch=False))
    assert parts.decoder == parts.guide == NOTHING


def test_cost_of_own_code_is_not_known(tmp_path: Path) -> None:
    """The rest is counted all the same."""
    (tmp_path / "own.py").write_text("def step(*_): ...\ndef load(device): ...\n")
    solver = estimate(run_spec([f"solver.path={tmp_path}/own.py:step"]))
    assert math.isnan(solver.nfe) and math.isnan(solver.network_flops) and solver.detector_flops > 0
    detector = estimate(run_spec([f"metrics.names=['fd@{tmp_path}/own.py:load']"]))
    assert math.isnan(detector.detector_flops) and detector.network_flops > 0


def test_plan_of_a_table_that_is_not_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table=table2", "rows=8,9", "throughput=100"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("(not fetched)") == 2 and printed.count("0 / 1000") == 2
    assert "to do: 1,500,000 network evaluations" in printed
    per_image = 15 * evaluation_flops(SIZES["edm2-img512-s"])
    rest = VAE_FLOPS + INCEPTION_FLOPS + DINOV2_FLOPS
    hours = [2 * 50_000 * flops / 100e12 / 3600 for flops in (per_image, VAE_FLOPS, rest - VAE_FLOPS)]
    assert f"about {sum(hours):,.2f} GPU-hours at 100 TFLOP/s: networks {hours[0]:,.2f}" in printed
    assert f"decoding {hours[1]:,.2f}, features {hours[2]:,.2f}" in printed
    assert "throughput_rest=TFLOP/s counts them at their own" in printed.replace("\n", " ")
    assert "decoding 251,452, features" in printed  # TFLOPs of 100,000 images
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


def test_plan_counts_parts_and_memory_at_their_own_speed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "track=imagenet512", "model=edm2-img512-xs-fid", "schedule.num_steps=8", "memory=l40s"]
    assert main([*words, "throughput=100", "throughput_rest=10"]) == 0
    printed = capsys.readouterr().out
    assert "TFLOPs of an image" in printed and "dinov2_torch" in printed
    hours = 50_000 * VAE_FLOPS / 10e12 / 3600
    assert f"and 10 in decoding and features: networks 0.19, decoding {hours:.2f}" in printed
    assert "throughput_rest=TFLOP/s" not in printed
    assert "memory of edm2-img512-xs-fid, block_size=50: about" in printed and "while decoding" in printed
    assert "memory=48: block_size=50 of edm2-img512-xs-fid fits, up to about block_size=" in printed


def test_plan_for_a_small_card(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "track=imagenet512", "model=edm2-img512-xs-fid", "throughput=1"]
    assert main([*words, "memory=t4", "block_size=2000"]) == 0
    assert "memory=16: block_size=2000 of edm2-img512-xs-fid does not fit, up to" in capsys.readouterr().out
    assert main([*words, "memory=2"]) == 0
    assert "not even block_size=1 of edm2-img512-xs-fid fits; it needs a GPU of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("memory", "told"),
    [("h10", "unknown GPU 'h10'; did you mean 'h100'?"), ("0", "expected GB of one GPU"), ("-3", "expected"),
     ("nan", "expected GB"), ("inf", "expected GB")],
)  # fmt: skip
def test_bad_memory(memory: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"memory={memory}"]) == 2
    assert told in capsys.readouterr().err


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
    assert (cost.nfe, cost.nfe_guide) == (plain.nfe, plain.nfe)
    assert cost.network_flops == 2 * plain.network_flops
