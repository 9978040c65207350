"""The tracks of photographs: what ships for them, and a small form of their runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation.detectors import detector_key, load_detector
from erk_bench.evaluation.reference_files import read_facts, read_reference

ROOT = Path(__file__).parents[1]
RESOLUTIONS = {"cifar16": 16, "cifar32": 32}
ACCURACY = {"cifar16": 0.55, "cifar32": 0.7}  # of the classifier, in ten classes

every_track = pytest.mark.parametrize("track", RESOLUTIONS)


def weights(track: str) -> Path:
    """The folder of what ships for a track."""
    return Path(erk_bench.__file__).parent / track / "weights"


@every_track
def test_the_reference_is_of_the_shipped_detectors(track: str) -> None:
    assets = Assets.from_environment()
    file = weights(track) / "reference.safetensors"
    facts, found = read_facts(file), read_reference(file)
    assert facts["num_images"] == 10_000 and facts["resolution"] == RESOLUTIONS[track]
    for name, dim in (("lite0", 320), (track, 64)):
        assert facts["detectors"][name] == detector_key(name, assets)
        stats, features = found[name].stats, found[name].features
        assert stats is not None and features is not None and features.shape == (500, dim)
        # The kept ones are of the pictures that the statistics are of.
        gap = (features.double().mean(0) - stats.mean) / stats.covariance.diag().sqrt()
        assert gap.abs().max() < 0.25
        assert torch.linalg.matrix_rank(stats.covariance) == dim


@every_track
def test_shipped_denoisers_beat_a_linear_guess(track: str) -> None:
    """Of flat pictures at sigma 0.5; half the noisy one, the linear guess, is off by 0.125."""
    side = RESOLUTIONS[track]
    noise = torch.randn(20, 3, side, side, generator=torch.Generator().manual_seed(1))
    clean = torch.linspace(-0.8, 0.8, 20)[:, None, None, None].expand_as(noise)
    for name in ("denoiser", "unconditional", "weaker"):
        net = erk_bench.load_denoiser(weights(track) / f"{name}.safetensors")
        record = json.loads((weights(track) / f"{name}.json").read_text())
        assert record["parameters"] == sum(each.numel() for each in net.parameters())
        assert net.num_classes == (0 if name == "unconditional" else 10)
        assert (net(clean + 0.5 * noise, 0.5) - clean).square().mean() < 0.06


@every_track
def test_the_classifier_takes_pictures_of_its_size_only(track: str) -> None:
    side = RESOLUTIONS[track]
    extract = load_detector(track, Assets.from_environment(), "cpu")
    found = extract(torch.zeros(2, 3, side, side, dtype=torch.uint8))
    assert found["features"].shape == (2, 64) and found["logits"].shape == (2, 10)
    for wrong in (torch.zeros(2, 3, 24, 24, dtype=torch.uint8), torch.zeros(2, 3, side, side)):
        with pytest.raises(UserError, match=f"the {track} detector takes uint8 images"):
            extract(wrong)
    record = json.loads((weights(track) / "features.json").read_text())
    assert record["test_accuracy"] > ACCURACY[track]


@every_track
def test_the_track_composes(track: str) -> None:
    spec = run_spec([f"track={track}"], fetch=False)
    assert spec.model.name == track and spec.model.decoder == "rgb"
    assert spec.metrics.names[0] == "fd_lite0"


@pytest.mark.slow
@every_track
def test_a_small_run_of_the_track(track: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of metric, with guidance; the samples are distant from the pictures, but not by orders."""
    of_lite0 = "fd_lite0,precision_lite0,density@lite0,coverage@lite0,kid_lite0,mind@lite0"
    metrics = f"[fd_{track},{of_lite0},is@{track}]"
    words = [f"track={track}", "seeds=0-49", "guidance=autoguidance", "schedule.num_steps=5",
             f"metrics.names={metrics}", "metrics.kid_subset_size=40", "metrics.num_groups=10"]  # fmt: skip
    assert main(["run", *words, f"out={tmp_path}", "workers=1"]) == 0
    assert "FD-lite0" in capsys.readouterr().out
    (record,) = tmp_path.rglob("records/*.json")
    assert 0 < json.loads(record.read_text())["metrics"][f"fd_{track}"]["value"] < 20


@pytest.mark.slow
@every_track
def test_the_reference_is_made_by_its_script(track: str, tmp_path: Path) -> None:
    """Of a few pictures, by the detectors of the shipped one."""
    for number in range(12):
        file = tmp_path / "pictures" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    out = tmp_path / "small.safetensors"
    script = [sys.executable, str(ROOT / "scripts" / "photographs_reference.py"), track]
    subprocess.run([*script, str(tmp_path / "pictures"), "--images", "10", "--to", str(out)], check=True)
    facts, shipped = read_facts(out), read_facts(weights(track) / "reference.safetensors")
    assert facts["num_images"] == 10 and facts["detectors"] == shipped["detectors"]
