"""What does not fit together is told before any image is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation.detectors import DETECTORS
from erk_bench.evaluation.metrics import METRICS, parts_of, solver_errors
from erk_bench.runs.checks import check_images
from erk_bench.runs.device import assets_of

DIGITS = ["track=digits", "schedule.num_steps=3", "workers=1", "device=cpu"]
UNCONDITIONAL = Path(__file__).parents[2] / "erk_bench/digits/weights/unconditional.safetensors"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "model.decoder=rgb"], "decoder 'rgb' takes 3 channels, the model has 1"),
        (["generate", "model.decoder=rgb"], "decoder 'rgb' takes 3 channels, the model has 1"),
        (["run", "class_label=10"], "class_label is 10; this model has labels 0 to 9"),
        (["generate", "class_label=-1"], "class_label is -1; this model has labels 0 to 9"),
        (["run", "class_label=1", "model.name=mine", f"model.weights.path={UNCONDITIONAL}",
          "model.weights.sha256=null"], "the model is unconditional; use class_label=null"),
        (["run", "seeds=0-499", "metrics.kid_subset_size=600"],
         "kid_subset_size is 600 but there are only 500 images; use more seeds, at least 600, or "
         "metrics.kid_subset_size=500"),
        (["run", "seeds=0-2999", "metrics.kid_subset_size=2000"],
         "kid_subset_size is 2000 but the reference has only 1797 images; use metrics.kid_subset_size=1797"),
        (["run", "seeds=0-0", "metrics.num_groups=2", "metrics.names=[fd_digits]"],
         "1 images are too few for 2 jackknife groups, which need 4; use more seeds, at least 4"),
        (["search", "seeds=0-99", "first=10", "block_size=5", "metrics.num_groups=20"],
         "15 images are too few for 20 jackknife groups, which need 40; use "
         "first=40, or metrics.num_groups=7"),
        (["search", "budget=10"], "budget is 10 network evaluations; the least"),
        (["search", f"search_seed={2**32}"], "search_seed is 4294967296; it must be 1 to 4294967295"),
        (["search", "w_con=0:1e300"], "expected LOW:HIGH, at most 1,000,000"),
    ],
)  # fmt: skip
def test_refused_before_sampling(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *settings = words
    assert main([name, *DIGITS, f"out={tmp_path / 'runs'}", *settings]) == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("model", "made", "resolution"), [("digits", 1, 8), ("edm-cifar10-32x32-cond-vp", 3, 32)]
)
def test_a_detector_that_does_not_take_the_images(model: str, made: int, resolution: int) -> None:
    """Told from the table of detectors, for every metric, with those that fit."""
    others = solver_errors(list(METRICS))  # which need no detector
    metrics = [name for name in METRICS if name not in others]
    rows = {name: [DETECTORS[metric.detector] for metric in parts_of(name)] for name in metrics}
    fitting = {
        name
        for name, parts in rows.items()
        if all(made in row.channels and row.resolution in (None, resolution) for row in parts)
    }
    assert ("fd_digits" in fitting) == (model == "digits") and (model == "digits" or "fid" in fitting)
    for name in metrics:
        spec = run_spec([f"model={model}", f"metrics.names=[{name}]"], fetch=False)
        if name in fitting:
            assert check_images(spec, assets_of(spec)) == resolution
            continue
        with pytest.raises(UserError, match=f"'{name}' takes images of .* {resolution}x{resolution}") as told:
            check_images(spec, assets_of(spec))
        assert set(str(told.value).partition("some of: ")[2].split(", ")) == {*fitting, *others}
