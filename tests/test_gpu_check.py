"""`make gpu-check`: its parts run, stop at their limit, and go on where they were."""

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

from erk_bench.runs.numerics import NUMERICS
from tests.pretend_gpu import PretendGpu

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    threads = torch.get_num_threads()
    yield importlib.import_module("gpu_check")
    torch.set_num_threads(threads)


def write(folder: Path, name: str, device: str = "card", small: bool = False) -> None:
    rows = [{"what": name, "speed": 3}]
    content = {"part": name, "about": f"About {name}.", "rows": rows, "seconds": 1.5,
               "machine": {"device": device}, "small": small}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_all_limits_are_less_than_25_minutes(gpu_check: Any) -> None:
    assert sum(part.limit for part in gpu_check.PARTS.values()) <= 25 * 60
    assert set(gpu_check.SMALL_PARTS) <= set(gpu_check.PARTS)


def test_a_part_that_failed_is_told_and_run_again(
    gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    broken = {"erk"}

    def run_part(name: str, small: bool, folder: Path) -> str | None:
        ran.append(name)
        if name in broken:
            return "ended with status 1:\nOutOfMemoryError"
        write(folder, name)
        return None

    monkeypatch.setattr(gpu_check, "run_part", run_part)
    settings = {"small": False, "again": False, "minutes": 25}
    assert gpu_check.check(["noise", "erk", "rates"], tmp_path, **settings) == 1
    assert "left: erk" in capsys.readouterr().out
    page = (tmp_path / "page.md").read_text()
    assert (
        "## noise" in page
        and "| rates | 3 |" in page
        and "## erk: not done" in page
        and "OutOfMemory" in page
    )
    broken.clear()
    assert gpu_check.check(["noise", "erk", "rates"], tmp_path, **settings) == 0
    assert ran == ["noise", "erk", "rates", "erk"]  # what is done is not done again
    assert "not done" not in (tmp_path / "page.md").read_text()
    assert gpu_check.check(["noise"], tmp_path, **{**settings, "again": True}) == 0
    assert ran[-1] == "noise"


def test_no_part_begins_after_the_time_is_up(gpu_check: Any, tmp_path: Path) -> None:
    assert gpu_check.check(["noise", "erk"], tmp_path, small=True, again=False, minutes=-1) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_a_part_ends_at_its_limit(gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = gpu_check.PARTS["noise"]._replace(limit=0.2)  # less than Python takes to import torch
    monkeypatch.setitem(gpu_check.PARTS, "noise", part)
    assert gpu_check.run_part("noise", False, tmp_path) == "stopped after its limit of 0.2 seconds"
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_it_is_worth(gpu_check: Any, tmp_path: Path) -> None:
    write(tmp_path, "noise", "card A")
    assert "- device: card A" in gpu_check.page(tmp_path) and "different" not in gpu_check.page(tmp_path)
    write(tmp_path, "erk", "card B", small=True)
    page = gpu_check.page(tmp_path)
    assert "different machines" in page and "its numbers say nothing" in page


def test_without_a_card(
    gpu_check: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, told in (([], "torch sees no GPU; --small"), (["--small"], "--to FOLDER")):
        with pytest.raises(SystemExit):
            gpu_check.main(words)
        assert told in capsys.readouterr().err


@pytest.mark.slow
def test_parts_run_on_the_pretended_card(gpu_check: Any, pretend_gpu: PretendGpu) -> None:
    """No devices mix. What times or compiles for a card is not run."""
    parts = importlib.import_module("gpu_parts")
    nets = importlib.import_module("gpu_nets")
    device = torch.device("cuda", 0)
    scale = parts.Scale(device, small=True)
    with torch.inference_mode():
        net = nets.network("s", scale, published=True)
        noise = torch.randn(2, 4, 16, 16).to(device)
        latents = parts.sample(net, noise, None, num_steps=3, w_stiff=1.0, w_con=0.1)
        assert latents.is_cuda
        for row in NUMERICS.values():
            assert nets.decoder(scale, row)(latents).is_cuda
        images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=device)
        nets.detector("inception", device)(images)


@pytest.mark.slow
def test_the_small_form(gpu_check: Any, tmp_path: Path) -> None:
    """All of it on a CPU; stopped in between, it goes on."""
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--small", "--to", str(tmp_path)]
    assert gpu_check.main(["--small", "--to", str(tmp_path), "--only", "noise"]) == 0
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done before") == 1
    rows = {path.stem: json.loads(path.read_text())["rows"] for path in tmp_path.glob("*.json")}
    assert set(rows) == {"tests", "noise", "throughput-xs", "numerics", "erk", "rates", "bench-arithmetic"}
    assert [row["numerics"] for row in rows["numerics"]] == list(NUMERICS)
    assert rows["numerics"][0]["bytes"] == "0.00%" and all(
        float(row["sampling, images/s"]) > 0 for row in rows["numerics"]
    )
    assert all(row["largest difference"] == "0.0e+00" for row in rows["noise"])
    assert rows["tests"][0]["failed"] == rows["tests"][0]["error"] == "0"
    assert all(float(row["images/s"]) > 0 for row in rows["rates"])
    page = (tmp_path / "page.md").read_text()
    assert all(f"## {name}\n" in page for name in rows) and "its numbers say nothing" in page
