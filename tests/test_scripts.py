"""Every script that prints or draws committed results runs, in a small form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from erk_bench.evaluation.families import FAMILIES

ROOT = Path(__file__).parents[1]
# Arguments, and words that it prints or writes; FOLDER is a temporary one.
SMALL = {
    "analysis_tables": (["--count", "4"], "| "),
    "angle_sets": (["--sets", "2", "--images", "60", "--most", "4", "--to", "FOLDER/page.md"], "Made by"),
    "angle_trials": (["--images", "60", "--to", "FOLDER/page.md"], "Made by"),
    "bench_score": (["--images", "100", "--turns", "1", "--to", "FOLDER"], "Median: "),
    "calibration": (["--sets", "3", "--images", "100", "--workers", "1", "--to", "FOLDER"], "fd_infinity"),
    "photographs_reference": (
        ["cifar32", "FOLDER/pictures", "--images", "30", "--to", "FOLDER/ref.safetensors"],
        "0.9 MB",
    ),
    "cost_curves": (["--to", "FOLDER"], ""),
    "install_sizes": ([], "| `search` | "),
    "numerics_differences": (["--images", "4"], "VAE of published size"),
    "training_curves": (["--to", "FOLDER"], ""),
    "stork_schedules": (["--points", "4", "--images", "2"], "time_uniform"),
    "train_toy": (["--iterations", "0.001", "--to", "FOLDER/toy.safetensors"], ""),
}
ELSEWHERE = {  # tests of their own, parts of those, or a step of CI
    "asset_sizes", "bench", "bench_gpu", "bench_images", "bench_lines", "bench_loading", "bench_plain",
    "bench_transformers", "docs_site", "gpu_check", "gpu_nets", "gpu_parts", "guidance_scale", "kills",
    "make_dashboard", "make_figures", "plain_transformer", "readme_hook",
    "report_pictures", "transfer",
}  # fmt: skip


def test_no_script_is_without_a_test() -> None:
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == ELSEWHERE | SMALL.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_scripts_run(name: str, tmp_path: Path) -> None:
    words, printed = SMALL[name]
    if "FOLDER/pictures" in words:
        (tmp_path / "pictures").mkdir()
        for index in range(40):
            color = (6 * index, 255 - 6 * index, 100)
            Image.new("RGB", (32, 32), color).save(tmp_path / "pictures" / f"{index}.png")
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py")]
    done = subprocess.run(
        [*command, *(word.replace("FOLDER", str(tmp_path)) for word in words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = list(tmp_path.rglob("*"))
    assert bool(written) == any("FOLDER" in word for word in words)
    assert printed in done.stdout + "".join(path.read_text() for path in written if path.suffix == ".md")
    if name == "calibration":
        page = (tmp_path / "calibration.md").read_text()
        assert f"| {next(reversed(FAMILIES))} | " in page
