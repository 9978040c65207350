"""Detectors and metrics of a user's own, from settings to records."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.files import file_sha256
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.evaluation.detectors import detector_key, detector_of, load_detector, reference_name
from erk_bench.evaluation.measured import Extracted
from erk_bench.evaluation.metrics import METRICS, code_keys, detectors_of, key_names, measure
from erk_bench.evaluation.reference import digits_reference
from erk_bench.evaluation.reference_files import Real, read_facts
from erk_bench.runs.records import Record, read_record
from erk_bench.spec import MetricsSpec
from erk_bench.studies.verdicts import check_comparable

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["seeds=0-7", "block_size=4", "workers=1", "device=cpu", "schedule.num_steps=2",
         "metrics.num_groups=2", "out=runs"]  # fmt: skip
DETECTOR = """
from pathlib import Path
import torch
Path("RAN").write_text("")

def load(device, *, dim=4):
    def extract(images):
        features = images.float().mean(1).flatten(1)[:, :dim]
        return features
    return extract
"""
METRIC = """
from pathlib import Path
Path("RAN").write_text("")

def gap(features, real_features, *, power=2.0):
    found = ((features.mean(0) - real_features.mean(0)).abs() ** power).sum()
    return found
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's files, where the test works."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_detector.py").write_text(DETECTOR)
    (tmp_path / "my_metric.py").write_text(METRIC)
    return tmp_path


def scored(names: str, *more: str) -> Record:
    assert main(["run", *SMALL, f"metrics.names=[{names}]", *more]) == 0
    (path,) = Path("runs").glob("*/records/0-7.json")
    return read_record(path)


def test_the_examples_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options and all; every family works on the detector, and the metric on every detector."""
    monkeypatch.chdir(tmp_path)
    detector, energy = f"{EXAMPLES}/my_detector.py:load", f"{EXAMPLES}/my_metric.py:energy"
    names = [
        "fd_digits", f"fd@{detector}", f"recall@{detector}:dim=4", f"{energy}@digits",
        f"{energy}:power=0.5@{detector}",
    ]  # fmt: skip
    record = scored(",".join(names), "seeds=0-7", "metrics.num_groups=2")
    assert list(record.metrics) == names
    assert all(item.value > 0 for name, item in record.metrics.items() if name != names[2])
    assert record.metrics[names[3]].value != record.metrics[names[4]].value
    keys = [key.rpartition("-")[0] for key in record.detectors]
    assert keys == ["digits", "my_detector.load", "my_detector.load-dim4", "my_metric.energy"]
    assert record.detectors[1].endswith(file_sha256(EXAMPLES / "my_detector.py")[:8])
    assert record.detectors[3].endswith(file_sha256(EXAMPLES / "my_metric.py")[:8])
    (store,) = Path("runs").glob("digits-*")
    assert {folder.name for folder in (store / "features").iterdir()} == set(record.detectors[:3])
    assert METRICS[names[1]].title == "FD-projections" and METRICS[names[3]].title == "energy distance-digits"


def test_the_example_metric_is_the_energy_distance() -> None:
    """Zero of a set with itself; in one dimension, twice the integral of the squared gap of distributions."""
    a, b = torch.randn(40, 1, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 2, 30)[:, None]
    family = METRICS[f"{EXAMPLES}/my_metric.py:energy@digits"].family
    spec = MetricsSpec(names=("-",), reference="digits", num_groups=4)
    groups = torch.arange(4).repeat_interleave(10)
    found = family.compute(Extracted(a), Real(None, b), groups, spec)[family.part]
    grid = torch.linspace(-5, 5, 200_001)
    parts = [torch.searchsorted(x.flatten().sort().values, grid, right=True) / len(x) for x in (a, b)]
    exact = 2 * torch.trapezoid((parts[0] - parts[1]) ** 2, grid).item()
    assert found.value == pytest.approx(exact, rel=1e-3)
    alone = family.compute(Extracted(a), Real(None, a), groups, spec)[family.part]
    assert alone.value == pytest.approx(0, abs=1e-6)
    without = [
        family.compute(Extracted(a[groups != g]), Real(None, b), groups[:30] % 3, spec) for g in range(4)
    ]
    assert found.replicates == pytest.approx([each[family.part].value for each in without])


def test_nothing_is_imported_before_it_runs(here: Path) -> None:
    """Planning, listing files and reading titles look at the text alone."""
    for name, text in (("my_detector.py", DETECTOR), ("my_metric.py", METRIC)):
        Path(name).write_text(text + "# imported by no other test\n")
    names = "fd@my_detector.py:load,my_metric.py:gap@digits,my_metric.py:gap:power=1@my_detector.py:load"
    assert main(["plan", *SMALL, f"metrics.names=[{names}]"]) == 0
    assert main(["fetch", *SMALL, f"metrics.names=[{names}]", "dry_run=true"]) == 0
    assert METRICS["my_metric.py:gap@digits"].title == "my_metric.gap-digits"
    assert not Path("RAN").exists()
    load_detector("my_detector.py:load", Assets.from_environment(), "cpu")
    assert Path("RAN").exists()


def test_features_and_values_of_other_code_never_mix(here: Path) -> None:
    name = "fd@my_detector.py:load,my_metric.py:gap@digits"
    first = scored(name)
    assert scored(name).created == first.created  # the record is there
    Path("my_detector.py").write_text(DETECTOR.replace("features = ", "features = 2 * "))
    second = scored(name)
    assert second.metrics[name.partition(",")[0]].value == pytest.approx(
        4 * first.metrics[name.partition(",")[0]].value, rel=1e-6
    )
    assert first.detectors[0] != second.detectors[0] and first.detectors[1:] == second.detectors[1:]
    Path("my_metric.py").write_text(METRIC.replace("found = ", "found = 3 * "))
    third = scored(name)
    assert third.metrics["my_metric.py:gap@digits"].value == pytest.approx(
        3 * second.metrics["my_metric.py:gap@digits"].value
    )
    for one, other in ((first, second), (second, third)):
        reordered = dataclasses.replace(one, detectors=one.detectors[::-1])
        check_comparable("my_metric.py:gap@digits", [one, reordered])
        with pytest.raises(UserError, match="has detectors .*run all rows of a table with the same settings"):
            check_comparable("my_metric.py:gap@digits", [one, other])


def test_a_table_of_ones_own_metric(here: Path) -> None:
    """Its title, and which values are better; the familiar metric by its other name."""
    Path("my_metric.py").write_text(f"{METRIC}gap.title = 'Gap'\ngap.lower = False\n")
    table = {
        "name": "mine", "title": "mine", "caption": "Mine.", "headline": "my_metric.py:gap@digits",
        "base": ["metrics.names=[my_metric.py:gap@digits,fd@digits]"],
        "rows": [[], ["correction=erk_guid", "correction.w_stiff=3", "correction.w_con=0"]],
    }  # fmt: skip
    Path("mine.yaml").write_text(yaml.safe_dump(table))
    assert main(["table", "table=mine.yaml", *SMALL, "schedule.num_steps=4", "to=tables"]) == 0
    assert "| Gap-digits | Δ Gap-digits | verdict | FD-digits |" in Path("tables/mine.md").read_text()
    with Path("tables/mine.csv").open() as file:
        plain, corrected = csv.DictReader(file)
    gain = float(corrected["my_metric.py:gap@digits"]) - float(plain["my_metric.py:gap@digits"])
    assert gain == pytest.approx(float(corrected["difference"])) and float(plain["fd_digits"]) > 0
    assert abs(gain) > 2 * float(corrected["difference_se"])
    assert corrected["verdict"] == ("better" if gain > 0 else "worse")


def test_a_record_keeps_a_metric_whose_file_is_gone(here: Path) -> None:
    scored("my_metric.py:gap@digits,fd@my_detector.py:load")
    Path("my_metric.py").unlink()
    Path("my_detector.py").unlink()
    assert list(scored("fd_digits").metrics) == [
        "my_metric.py:gap@digits",
        "fd@my_detector.py:load",
        "fd_digits",
    ]
    assert key_names(["gone.py:f@digits"]) == {"digits", "gone.f"}


def test_a_reference_by_a_detector_of_ones_own(here: Path) -> None:
    """Made with it, found by its key, refused for other code."""
    Path("real").mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(f"real/{index}.png")
    words = ["resolution=8", "device=cpu", "keep_features=true", "source=real", "to=real.safetensors"]
    assert main(["reference", *words, "detectors=my_detector.py:load,digits"]) == 0
    names = "fd@my_detector.py:load,my_metric.py:gap@my_detector.py:load,fd_digits"
    record = scored(names, "metrics.reference=real.safetensors")
    assert read_facts(Path("real.safetensors"))["detectors"] == {
        "my_detector.load": record.detectors[0], "digits": record.detectors[1]
    }  # fmt: skip
    scored(names, "metrics.real_features=real.safetensors")
    Path("my_detector.py").write_text(DETECTOR + "# changed\n")
    for setting in ("metrics.reference", "metrics.real_features"):
        with pytest.raises(UserError, match="was made by detector my_detector.load-.*other code"):
            run([f"metrics.names=[{names}]", f"{setting}=real.safetensors"])
    with pytest.raises(
        UserError, match="needs features of real images by detector 'my_detector.py:load:dim=2'"
    ):
        run(["metrics.names=[recall@my_detector.py:load:dim=2]", "metrics.reference=real.safetensors"])


def run(words: Sequence[str]) -> None:
    from erk_bench.evaluation.reference import load_real

    load_real(run_spec([*SMALL, *words]).metrics, Assets.from_environment())


def test_a_checkpoint_is_part_of_the_key(here: Path) -> None:
    torch.save(torch.ones(2), "weights.pt")
    Path("my_detector.py").write_text(
        "import torch\ndef load(checkpoint, device, *, scale=1):\n"
        "    weights = torch.load(checkpoint)\n"
        "    return lambda images: images.flatten(1)[:, :2].float() * weights * scale\n"
    )
    name, assets = "my_detector.py:load:checkpoint=weights.pt", Assets.from_environment()
    keys = {detector_key(name, assets), detector_key(f"{name}:scale=2", assets)}
    images = digits_reference()[:3]
    found = load_detector(name, assets, "cpu")(images)["features"]
    assert torch.equal(load_detector(f"{name}:scale=2", assets, "cpu")(images)["features"], 2 * found)
    torch.save(torch.ones(2) * 3, "weights.pt")
    assert torch.equal(load_detector(name, assets, "cpu")(images)["features"], 3 * found)
    assert len(keys | {detector_key(name, assets)}) == 3
    assert (
        detector_of(name).weights == "weights.pt"
        and reference_name(name) == "my_detector.load-checkpointweights"
    )
    with pytest.raises(
        UserError, match=r"takes \(checkpoint, device\); a detector without :checkpoint=FILE takes"
    ):
        detector_of("my_detector.py:load")


def test_logits_channels_and_resolution_are_told_by_attributes(here: Path) -> None:
    """And the combinations that make no sense are refused before sampling."""
    with pytest.raises(UserError, match=r"needs class logits.*load\.num_logits = 10"):
        run_spec(["metrics.names=[is@my_detector.py:load]"])
    text = DETECTOR.replace("return features", "return {'features': features, 'logits': features}")
    Path("my_detector.py").write_text(f"{text}\nload.num_logits = 4\nload.title = 'corner'\n")

    assert METRICS["is@my_detector.py:load"].title == "IS-corner"
    extracted = load_detector("my_detector.py:load", Assets.from_environment(), "cpu")(
        digits_reference()[:80]
    )
    spec = MetricsSpec(names=("is@my_detector.py:load",), reference="digits", num_groups=2)
    assert (
        measure(spec, {"my_detector.py:load": Extracted(**extracted)}, {})["is@my_detector.py:load"].value
        >= 1
    )
    for fact, told in (
        ("channels = (3,)", "takes images of 3 channels"),
        ("resolution = 64", "64x64 pixels"),
    ):
        Path("my_detector.py").write_text(f"{DETECTOR}\nload.{fact}\n")
        assert main(["run", *SMALL, "metrics.names=[fd@my_detector.py:load]"]) == 2, told


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        (
            "return None",
            "what load gives in 'my_detector.py' returned a NoneType for 5 images; expected float",
        ),
        ("return features[:2]", "returned a tensor [2, 4] of float32 on cpu for 5 images"),
        ("return features[0]", "returned a tensor [4] of float32"),
        ("return features.long()", "of int64 on cpu, no floats"),
        ("return features / 0", "returned not finite"),
        ("return {'logits': features}", "returned a dict of 'logits'; expected float features [B, D]"),
        ("return {'features': features, 'logits': 1}", "returned logits that are a int for 5 images"),
        ("return features @ features", "failed at line 9: return features @ features (RuntimeError: "),
    ],
)
def test_what_a_detector_gives_is_checked(here: Path, instead: str, told: str) -> None:
    Path("my_detector.py").write_text(DETECTOR.replace("return features\n", f"{instead}\n"))
    with pytest.raises(UserError) as caught:
        load_detector("my_detector.py:load", Assets.from_environment(), "cpu")(digits_reference()[:5])
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        ("return None", "gap in 'my_metric.py' returned a NoneType; expected a finite number"),
        ("return features", "returned a tensor [8, 64] of float32 on cpu; expected a finite number"),
        ("return float('nan')", "returned nan; expected a finite number"),
        ("return 'a'", "returned a str"),
        ("return features.nothing", "gap in 'my_metric.py' failed at line 7: return features.nothing"),
    ],
)
def test_what_a_metric_gives_is_checked(here: Path, instead: str, told: str) -> None:
    Path("my_metric.py").write_text(METRIC.replace("return found", instead))
    spec = MetricsSpec(names=("my_metric.py:gap@digits",), reference="digits", num_groups=4)
    some = torch.randn(8, 64)
    with pytest.raises(UserError) as caught:
        measure(spec, {"digits": Extracted(some)}, {"digits": Real(None, some)})
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fd@absent.py:load", "names 'absent.py', which does not exist"),
        ("absent.py:f@digits", "names 'absent.py', which does not exist"),
        ("fd@my_detector.py:laod", "unknown function in 'my_detector.py' 'laod'; did you mean 'load'"),
        (
            "my_metric.py:gap:pwoer=1@digits",
            "unknown option of gap in 'my_metric.py' 'pwoer'; did you mean 'power'",
        ),
        (
            "fd@my_detector.py:load:dmi=1",
            "unknown option of load in 'my_detector.py' 'dmi'; did you mean 'dim'",
        ),
        ("my_detector.py:load@digits", "takes (device); a metric takes (features, real_features)"),
        ("fd@my_metric.py:gap", "takes (features, real_features); a detector without :checkpoint=FILE takes"),
        ("fd@my_detector.py:load:checkpoint=w.pt", "takes (device); a detector takes (checkpoint, device)"),
        ("my_metric.py:gap", "names no detector; write my_metric.py:gap@DETECTOR"),
        ("fd@no_such_package.nets:load", "names module 'no_such_package.nets', which is not installed"),
    ],
)
def test_a_wrong_name_is_told_before_anything_runs(here: Path, name: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        run_spec([*SMALL, f"metrics.names=[{name}]"])
    assert told in str(caught.value) and not Path("RAN").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("gap.lower = 1", "has title 'my_metric.gap' and lower 1; expected a text, and True"),
        ("gap.title = max('a', 'b')", "gap.title at line 8 of 'my_metric.py' is no plain value"),
    ],
)
def test_attributes_of_a_metric(here: Path, line: str, told: str) -> None:
    Path("my_metric.py").write_text(f"{METRIC}{line}\n")
    with pytest.raises(UserError) as caught:
        METRICS["my_metric.py:gap@digits"]
    assert told in str(caught.value)
    Path("my_metric.py").write_text(f"{METRIC}gap.lower = False\ngap.title = 'gap'\n")
    metric = METRICS["my_metric.py:gap@vgg16"]
    assert not metric.lower and metric.title == "gap-VGG16"


def test_a_module_and_a_path_with_an_at_sign(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "me@lab").mkdir()
    for name in ("my_metric.py", "my_detector.py"):
        (here / "me@lab" / name).write_text((here / name).read_text())
    metric = METRICS["me@lab/my_metric.py:gap@me@lab/my_detector.py:load"]
    assert metric.detector == "me@lab/my_detector.py:load"
    monkeypatch.syspath_prepend(str(here))
    assert METRICS["my_metric:gap@my_detector:load"].detector == "my_detector:load"
    assert code_keys(["my_metric:gap@digits"]) == code_keys(["my_metric.py:gap@digits"])
    with pytest.raises(UserError, match="are both called 'my_detector.load'; rename one of the files"):
        detectors_of(["fd@my_detector.py:load", "fd@me@lab/my_detector.py:load"])


def test_a_file_that_changes_while_it_is_used(here: Path) -> None:
    assets = Assets.from_environment()
    key = detector_key("my_detector.py:load", assets)
    Path("my_detector.py").write_text(DETECTOR + "# changed\n")
    with pytest.raises(UserError, match="has changed since this command began; run it again"):
        load_detector("my_detector.py:load", assets, "cpu", key)
    Path("my_metric.py").write_text(METRIC + "# never imported\n")
    family = METRICS["my_metric.py:gap@digits"].family
    Path("my_metric.py").write_text(METRIC + "# changed\n")
    some = torch.randn(8, 4)
    spec = MetricsSpec(names=("-",), reference="digits", num_groups=2)
    with pytest.raises(UserError, match="has changed since"):
        family.compute(Extracted(some), Real(None, some), torch.arange(8) % 2, spec)
