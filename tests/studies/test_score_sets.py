"""Sets of images that something else made, scored like a run's."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.digits.data import load_digits
from erk_bench.runs import launch
from erk_bench.runs.export import export_npz, export_png, images_of
from erk_bench.runs.records import Record, read_record
from erk_bench.runs.score import record_path, score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec, SetSpec

METRICS = ["fd_digits", "recall_digits"]


def save_digits(folder: Path, first: int, count: int, channels: int = 3) -> Path:
    """Real digits as PNG files."""
    folder.mkdir(parents=True)
    for index in range(first, first + count):
        image = Image.fromarray(load_digits().images[index, 0].numpy())
        image.convert("RGB" if channels == 3 else "L").save(folder / f"{index:06d}.png")
    return folder


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return save_digits(tmp_path / "mine", 0, 40)


def scored(
    images: Path | str, reference: Path | str = "digits", metrics: Sequence[str] = METRICS, **settings: Any
) -> Record:
    return erk_bench.score(images, reference, metrics, num_groups=10, out="runs", **settings)


@pytest.mark.parametrize("form", ["png", "zip", "npz", "npy", "list"])
@pytest.mark.slow
def test_a_run_has_the_same_figures_in_every_form(
    small_run: Callable[..., RunSpec], tmp_path: Path, form: str
) -> None:
    """Kept in memory, as PNG files, in archives and arrays; the sets pair with the run."""
    spec = small_run("metrics.names=[fd_digits,recall_digits]")
    launch.compute([[spec]], features=True, title="run")
    of_run = score(spec)
    export_png(spec, tmp_path / "png")
    place = tmp_path / f"set.{form}"
    if form == "png":
        place = tmp_path / "png"
    elif form == "zip":
        shutil.make_archive(str(place.with_suffix("")), "zip", tmp_path / "png")
    elif form == "npz":
        export_npz(spec, place)
    elif form == "npy":
        np.save(place, np.stack([image for _, image, _ in images_of(spec)]))
    else:
        place = tmp_path / "set.txt"
        place.write_text("\n".join(f"png/000000/{seed:06d}.png" for seed in spec.seed_range))
    groups = spec.metrics.num_groups
    of_set = erk_bench.score(place, "digits", METRICS, num_groups=groups, out=spec.out)
    for name in METRICS:
        mine, theirs = of_set.metrics[name], of_run.metrics[name]
        assert (mine.value, mine.replicates) == (theirs.value, theirs.replicates)
    assert of_set.pairing == of_run.pairing and of_set.num_images == of_run.num_images


def test_the_reference_may_be_a_set(digits: Path, tmp_path: Path) -> None:
    """Its features are kept as a reference, and the figures are those of that file."""
    real = save_digits(tmp_path / "real", 100, 60)
    record = scored(digits, real)
    assert record.reference["name"] == "real" and record.num_images == 40
    made = next(Path("runs").glob("images-*/reference-*.safetensors"))
    again = scored(digits, made)
    assert again.metrics == record.metrics
    assert record.reference == again.reference
    assert scored(digits, real, metrics=["kid_digits"], kid_subset_size=30).metrics.keys() == {"kid_digits"}


def test_a_set_that_is_the_reference_is_told(digits: Path) -> None:
    record = scored(digits, digits)
    assert record.images == {"reference": True} and abs(record.metrics["fd_digits"].value) < 1e-6
    assert read_record(record_path(record.source)) == record


def test_records_against_two_references_are_both_kept(digits: Path, tmp_path: Path) -> None:
    scored(digits)
    scored(digits, save_digits(tmp_path / "real", 100, 60))
    (folder,) = {
        path.parent for path in Path("runs").glob("images-*/records/*.json") if "mine" in path.read_text()
    }
    assert len(list(folder.iterdir())) == 2


def test_a_set_is_known_by_its_content(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved and renamed, it is found again; nothing is computed."""
    before = scored(digits)
    digits.rename(tmp_path / "elsewhere")
    monkeypatch.setattr("erk_bench.runs.finish_block.read_block", None)
    after = scored(tmp_path / "elsewhere", name="other")
    assert after.run_id == before.run_id and after.metrics == before.metrics
    assert (before.name, after.name) == ("mine", "other")


def test_an_unreadable_image_is_named_and_nothing_is_lost(digits: Path) -> None:
    """Damage inside that only decoding finds: refused by name; left out where asked for, and recorded."""
    broken = digits / "000033.png"
    broken.write_bytes(with_wrong_pixels(broken.read_bytes()))
    with pytest.raises(UserError, match=r"cannot read image '000033.png'.*skip_unreadable=true"):
        scored(digits, block_size=10)
    kept = sorted(Path("runs").glob("images-*/features/*/*"))
    assert len(kept) == 3  # the blocks before it
    record = scored(digits, block_size=10, skip_unreadable=True)
    assert record.num_images == 39 and record.images["unreadable"] == ["000033.png"]
    assert json.loads(record_path(record.source).read_text())["images"] == record.images
    with pytest.raises(UserError, match="000033.png"):  # the record of those that were read is not taken
        scored(digits, block_size=10)


def with_wrong_pixels(png: bytes) -> bytes:
    """Every chunk whole and with its checksum, but pixels that cannot be unpacked."""
    start = png.index(b"IDAT") - 4
    length = int.from_bytes(png[start : start + 4], "big")
    data = b"IDAT" + bytes(length)
    return png[: start + 4] + data + zlib.crc32(data).to_bytes(4, "big") + png[start + 12 + length :]


def test_a_truncated_image_is_told_before_anything_runs(digits: Path) -> None:
    broken = digits / "000033.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"000033.png.*skip_unreadable=true"):
        scored(digits, block_size=10)
    assert not list(Path("runs").glob("images-*"))
    assert scored(digits, skip_unreadable=True).images["unreadable"] == ["000033.png"]


def test_copies_are_counted(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (40, 41):
        shutil.copy(digits / "000003.png", digits / f"{number:06d}.png")
    assert scored(digits).images == {"duplicates": 2}
    assert main(["score", str(digits), "digits", "num_groups=10", "workers=1", "out=runs"]) == 0
    assert "2 of 42 images are copies of others of the set" in capsys.readouterr().out


def test_mixed_sizes_are_told(digits: Path) -> None:
    Image.new("RGB", (9, 8)).save(digits / "000040.png")
    with pytest.raises(UserError, match="have several sizes: 40 of 8x8 .* 1 of 8x9 .*resolution=N"):
        scored(digits)
    assert scored(digits, resolution=8).num_images == 41


def test_names_pair_without_what_was_left_out(digits: Path) -> None:
    whole = scored(digits)
    (digits / "000039.png").write_bytes(b"no image")
    with_gap = scored(digits, skip_unreadable=True)
    (digits / "000039.png").unlink()
    without = scored(digits)
    assert isinstance(without.source, SetSpec) and isinstance(with_gap.source, SetSpec)
    assert without.source.names_sha256 == with_gap.source.names_sha256
    assert whole.spec["names_sha256"] != without.source.names_sha256


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"metrics": ["fid0"]}, "unknown metric 'fid0'"),
        ({"num_group": 3}, "unknown setting of score 'num_group'"),
        ({"reference": "digit"}, "unknown reference 'digit'"),
        ({"images": "nowhere"}, "'nowhere' does not exist"),
        ({"resolution": 16}, "takes images of 8x8 pixels"),
        ({"block_size": 0}, "block_size is 0"),
    ],
)
def test_what_cannot_be_is_told(digits: Path, settings: dict[str, Any], told: str) -> None:
    given = {"images": digits, **settings}
    with pytest.raises(UserError, match=told):
        scored(**given)
    assert not list(Path("runs").glob("images-*/features"))


def test_too_few_images_are_told_before_any_is_read(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = save_digits(tmp_path / "few", 0, 12)
    monkeypatch.setattr("erk_bench.evaluation.image_source.ImageSource.raw", None)
    with pytest.raises(UserError, match="12 images are too few for 10 jackknife groups.*more images"):
        scored(few)
    with pytest.raises(UserError, match="kid_subset_size is 30 but the reference has only 12 images"):
        scored(digits, few, metrics=["kid_digits"], kid_subset_size=30)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mine", "digits", "metrics=kid_digits"], "or num_groups=20 kid_subset_size=40"),
        (["mine", "digits"], "40 images are too few for 50 jackknife groups.*or num_groups=20"),
        (["mine", "digits", "tracker=wandb2"], "unknown tracker 'wandb2'"),
        (["mine", "digits", "out="], "out is empty"),
        (["mine", "digits", "image=x"], "unknown option of score 'image'; did you mean 'images'"),
        (["mine"], "reference is missing"),
        (["mine", "digits", "more"], "got 3 words"),
        (["mine", "nothing"], "unknown reference 'nothing'.*a folder of images that is there"),
        (["mine,mine", "digits", "name=a,b,c"], "name has 3 names for 2 sets"),
    ],
)
def test_the_command_line_tells_before_it_reads(
    digits: Path,
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the words of its own options."""
    monkeypatch.chdir(digits.parent)
    assert main(["score", *words]) == 2
    found = capsys.readouterr().err
    assert re.search(told, found) and "metrics." not in found and "reading files" not in found


def test_a_half_done_set_goes_on(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are there are not read again."""
    first = scored(digits, block_size=10)
    store = RunStore.folder_of(first.source)
    record_path(first.source).unlink()
    gone = sorted(store.glob("features/*/*"))[2]
    gone.unlink()
    from erk_bench.runs import finish_block

    read = []
    before = finish_block.read_block
    monkeypatch.setattr(
        finish_block,
        "read_block",
        lambda spec, block, worker: read.append(block.index) or before(spec, block, worker),
    )
    assert scored(digits, block_size=10).metrics == first.metrics and read == [2]


def test_a_set_pairs_with_the_run_whose_seeds_its_files_are_named_by(
    small_run: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = small_run("metrics.names=[fd_digits]", "seeds=8-47")
    launch.compute([[spec]], features=True, title="run")
    export_png(spec, tmp_path / "png")
    of_run, of_set = score(spec), scored(tmp_path / "png", metrics=["fd_digits"])
    assert of_set.pairing == of_run.pairing == ("seeds", "8-47")
    (tmp_path / "png" / "000000" / "000047.png").rename(tmp_path / "png" / "000000" / "000048.png")
    assert scored(tmp_path / "png", metrics=["fd_digits"]).pairing[0] == "names"


TABLE = """\
name: mixed
title: Sets beside runs
caption: Digits.
base: [track=digits, seeds=0-39, schedule.num_steps=4, "metrics.names=[fd_digits]", metrics.num_groups=10]
headline: fd_digits
rows:
  - [schedule.num_steps=4]
  - {images: mine, label: theirs}
  - {images: other, baseline: theirs}
"""


@pytest.mark.parametrize("figure", ["steps", "nfe"])
@pytest.mark.slow
def test_a_table_has_rows_of_images(
    digits: Path, tmp_path: Path, figure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside runs; compared unpaired where the names differ; shown again from records without the images."""
    other = save_digits(tmp_path / "other", 60, 40)
    table = tmp_path / "mixed.yaml"
    table.write_text(f"{TABLE}figure: {figure}\n")
    place = [f"table={table}", f"out={tmp_path / 'runs'}", "workers=1"]
    assert main(["table", *place, f"to={tmp_path / 'to'}", f"records={tmp_path / 'records'}"]) == 0
    lines = (tmp_path / "to" / "mixed.csv").read_text().splitlines()
    assert lines[2].startswith("given images,,theirs,,,") and lines[3].startswith("given images,,other,,,")
    assert "theirs" in lines[3]
    assert "the difference is unpaired: other" in (tmp_path / "to" / "mixed.md").read_text()
    capsys.readouterr()
    assert main(["table", *place, "sets=2"]) == 2
    assert "is one set of images; use sets=1" in capsys.readouterr().err
    for folder in (digits, other):
        shutil.rmtree(folder)
    again = ["table", *place, f"from={tmp_path / 'records'}", f"to={tmp_path / 'again'}"]
    assert main(again) == 0
    assert (tmp_path / "again" / "mixed.csv").read_text().splitlines() == lines
    assert main(["plan", *place]) == 0  # of the rows that are sampled


def test_a_table_of_sets_alone(digits: Path, tmp_path: Path) -> None:
    table = tmp_path / "mixed.yaml"
    table.write_text(
        TABLE.replace("  - [schedule.num_steps=4]\n", "").replace("images: other", "images: mine")
    )
    assert main(["table", f"table={table}", f"out={tmp_path / 'runs'}", "workers=1"]) == 0
    assert (tmp_path / "runs" / "tables" / "mixed-steps.png").is_file()
    assert main(["plan", f"table={table}"]) == 2


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{images: mine, set: [schedule.num_steps=4]}", "give one of the two"),
        ("{label: x}", "neither 'set'.* nor 'images'"),
        ("{images: nowhere}", "'nowhere' does not exist"),
    ],
)
def test_a_row_that_cannot_be_is_told(
    digits: Path, tmp_path: Path, row: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mixed.yaml"
    table.write_text(f"{TABLE.partition('rows:')[0]}rows:\n  - {row}\n")
    assert main(["table", f"table={table}", f"out={tmp_path / 'runs'}", "workers=1"]) == 2
    assert re.search(told, capsys.readouterr().err)


def test_the_error_of_a_set_sorted_by_class_is_that_of_a_shuffled_one(tmp_path: Path) -> None:
    """Class folders put images of a class together; jackknife groups take from all of them."""
    labels = load_digits().labels[:400].tolist()
    for index, label in enumerate(labels):
        for folder, name in (("sorted", f"class {label}/a{index}b"), ("mixed", f"{index:05d}")):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(load_digits().images[index, 0].numpy()).convert("RGB").save(path)
    errors = []
    for folder in ("sorted", "mixed"):
        record = erk_bench.score(tmp_path / folder, "digits", METRICS, num_groups=20, out="runs")
        errors.append([record.metrics[name].standard_error for name in METRICS])
    ratios = [mine / theirs for mine, theirs in zip(*errors, strict=True)]
    assert all(0.6 < ratio < 1.6 for ratio in ratios), ratios
