"""The benchmark: its fast ways give what the plain ones give, and it writes what it measured."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from erk_bench.base.weight_files import read_state_dicts
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from tests.conftest import DATA
from tests.flow_golden import far, flow_golden

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    threads = torch.get_num_threads()
    yield importlib.import_module("bench_lines")
    torch.set_num_threads(threads)


# Relative to the largest value; float32 sums in another order, and bfloat16 where a line says so.
TOLERANCES = {"network": 2e-5, "arithmetic": 1e-6, "sampling": 2e-5, "frechet": 1e-10, "neighbours": 0.0}


@pytest.mark.parametrize("name", TOLERANCES)
def test_fast_ways_give_what_plain_ones_give(lines: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines.shutil, "which", lambda _: None)  # compiling takes a minute
    count = 0
    with torch.inference_mode():
        for line in lines.LINES[name](lines.Scale(torch.device("cpu"), small=True)):
            fast, plain = line.fast(), line.plain()
            tolerance = 0.05 if "bfloat16" in line.ways[0] else TOLERANCES[name]
            if line.ways[1] == "torch-fidelity":  # it takes the mean in float32
                tolerance = 1e-6
            error = (fast - plain).abs().max() / plain.abs().max()
            assert error <= tolerance, line
            assert line.difference()
            count += 1
    assert count


def test_plain_transformer_is_the_same_network(lines: Any) -> None:
    """bench_transformers compares with it."""
    plain = importlib.import_module("plain_transformer").PlainSiT(8, 4, 2, 32, 2, 2, 8, 11)
    plain.load_state_dict(read_state_dicts(DATA / "flow" / "sit_a.pt")[""])
    data = flow_golden("sit_a")
    with torch.inference_mode():
        found = plain(data["x"], data["t"], data["y"])[:, :4]  # without the variances
        assert far(found, data["forward"]) < 2e-6


@pytest.mark.slow
def test_transformers_are_compared(tmp_path: Path) -> None:
    """Every column of the page, of the smallest size."""
    page = tmp_path / "page.md"
    subprocess.run(
        [
            sys.executable, str(ROOT / "scripts/bench_transformers.py"), "--loading", "sit-s-8", "--speed",
            "sit-s-8", "--turns", "1", "--to", str(page),
        ],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    text = page.read_text()
    for form in ("torch zip, weights alone", "torch zip, model and ema", "safetensors"):
        assert f"| sit-s-8 | {form} |" in text
    assert "of the largest value" in text


@pytest.mark.parametrize("name", ["edm2_a_latent_cond", "edm2_c_pixel_cond"])
def test_plain_network_is_the_same_network(lines: Any, name: str) -> None:
    """Attention, labels and gains of published formats."""
    checkpoint = read_checkpoint(DATA / f"{name}.pkl")
    fast = build_denoiser(checkpoint)
    plain = sys.modules["bench_plain"].unfolded(checkpoint)
    x = torch.randn(2, fast.img_channels, fast.img_resolution, fast.img_resolution)
    labels = torch.eye(fast.label_dim)[:2]
    with torch.inference_mode(), sys.modules["bench_plain"].plain_attention():
        other = plain(x, 0.7, labels)
    found = fast(x, 0.7, labels)
    assert (found - other).abs().max() <= 2e-5 * other.abs().max()


@pytest.mark.slow
def test_throughput_rows(lines: Any) -> None:
    gpu = importlib.import_module("bench_gpu")
    rows = gpu.throughput(
        torch.device("cpu"), ("edm-cifar10-32x32-cond-vp",), (1,), torch.float32, small=True
    )
    assert [row["network"] for row in rows] == ["edm-cifar10-32x32-cond-vp"]
    assert float(rows[0]["evaluations of images/s"]) > 0 and rows[0]["share of matrix rate"].endswith("%")


def test_decoding_rates(lines: Any) -> None:
    images = importlib.import_module("bench_images")
    rows = images.decoding_rates((1, 2), small=True, turns=1)
    assert [row["form"] for row in rows] == list(images.FORMS)
    for row in rows:
        assert {"decoding, 1 thread", "decoding, 2 threads", "first opening", "opening again"} <= set(row)
        assert all(float(value[:-2].replace(",", "")) > 0 for value in row.values() if value.endswith("/s"))


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    """Everything runs and is written, whatever it measures."""
    command = [
        sys.executable,
        str(ROOT / "scripts/bench.py"),
        "--small",
        "--repeats",
        "1",
        "--to",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "bench-cpu.json").read_text())
    text = (tmp_path / "bench-cpu.md").read_text()
    assert len(content["lines"]) >= 20
    for row in content["lines"]:
        assert len(row["times_faster"]) == 1 and row["times_faster"][0] > 0
        assert "nan" not in row["difference"] and row["line"] in text
    assert sum(content["profile"].values()) == pytest.approx(1.0, abs=0.3)
    assert content["profile"]["networks"] > 0 and content["erk_shares"]
    assert content["decoding"] and "Images a second" in text
