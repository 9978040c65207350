"""Exports: never beside other images, an earlier one's files cleared, read back with the same figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.evaluation.frechet import frechet_distance
from erk_bench.evaluation.reference import load_real
from erk_bench.evaluation.reference_files import read_reference
from erk_bench.runs import export as exporting
from erk_bench.runs.blocks import Worker, blocks_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.export import MANIFEST, export
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.generate import generate
from erk_bench.runs.score import score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec

MakeRun = Callable[..., RunSpec]


def made(spec: RunSpec) -> RunSpec:
    generate([[spec]], Worker(), lambda run, images: None, features=True)
    return spec


@pytest.fixture
def run(small_run: MakeRun) -> RunSpec:
    return made(small_run("samples=blocks", "seeds=0-19"))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def expected(numbers: range) -> list[str]:
    return [MANIFEST, *(f"000000/{seed:06d}.png" for seed in numbers)]


def test_an_earlier_export_is_cleared(run: RunSpec, small_run: MakeRun, tmp_path: Path) -> None:
    folder = tmp_path / "png"
    assert export(run, "png", str(folder)) == (20, folder)
    assert names(folder) == expected(range(20))
    fewer = small_run("samples=blocks", "seeds=3-7")
    assert export(fewer, "png", str(folder)) == (5, folder)
    assert names(folder) == expected(range(3, 8))
    (folder / "README.txt").write_text("mine")
    other = made(small_run("samples=blocks", "seeds=0-7", "solver=euler"))
    assert export(other, "png", str(folder))[0] == 8
    assert names(folder) == sorted(["README.txt", *expected(range(8))])


@pytest.mark.parametrize("name", ["a.png", "000000/a.JPEG", "deep/.hidden/b.tif", "000000/000020.png"])
@pytest.mark.parametrize("earlier", [True, False])
def test_other_images_are_counted_and_refused(earlier: bool, name: str, run: RunSpec, tmp_path: Path) -> None:
    folder = tmp_path / "png"
    if earlier:
        export(run, "png", str(folder))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"mine")
    (folder / f"{name}.gif").write_bytes(b"mine, too")
    before = names(folder)
    with pytest.raises(
        UserError, match=rf"'.*png' has 2 images that are not of an earlier export \({name}, "
    ):
        export(run, "png", str(folder))
    assert names(folder) == before


def test_exports_of_older_versions_have_no_manifest(run: RunSpec, tmp_path: Path) -> None:
    export(run, "png", str(tmp_path / "png"))
    (tmp_path / "png" / MANIFEST).unlink()
    with pytest.raises(UserError, match="has 20 images that are not"):
        export(run, "png", str(tmp_path / "png"))


def test_an_interrupted_export_is_begun_anew(
    run: RunSpec, small_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, written = tmp_path / "png", []
    write_png = exporting.write_png

    def stopping(path: Path, image: np.ndarray) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        write_png(path, image)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(exporting, "write_png", stopping)
        export(run, "png", str(folder))
    assert names(folder) == expected(range(7))
    (folder / "000000" / ".000007.png.123.456.tmp").write_bytes(b"of a killed one")
    assert export(small_run("samples=blocks", "seeds=10-11"), "png", str(folder))[0] == 2
    assert names(folder) == expected(range(10, 12))


def test_missing_blocks_leave_an_earlier_export_alone(
    run: RunSpec, small_run: MakeRun, tmp_path: Path
) -> None:
    folder = tmp_path / "png"
    export(run, "png", str(folder))
    with pytest.raises(UserError, match="have no images"):
        export(small_run("samples=blocks", "seeds=0-39"), "png", str(folder))
    assert names(folder) == expected(range(20))


@pytest.mark.parametrize("content", ["{}", "no JSON", '{"first": "a", "count": 3}', "[1]"])
def test_a_damaged_manifest(content: str, run: RunSpec, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="is damaged .*give another folder"):
        export(run, "png", str(tmp_path))


def test_a_file_in_the_way(run: RunSpec, tmp_path: Path) -> None:
    (tmp_path / "png").write_text("mine")
    with pytest.raises(UserError, match="'.*png' is a file; give a folder"):
        export(run, "png", str(tmp_path / "png"))
    with pytest.raises(UserError, match="is a folder; give another name"):
        export(run, "npz", str(tmp_path))


def test_npz_replaces_an_earlier_export_only(run: RunSpec, small_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    export(run, "npz", str(path))
    export(small_run("samples=blocks", "seeds=0-7"), "npz", str(path))
    with np.load(path) as stored:
        assert stored["arr_0"].shape == (8, 8, 8, 3)
    np.savez(path, arr_0=np.zeros(3))
    for content in (path.read_bytes(), b"mine", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="exists and is no earlier export; give another name"):
            export(run, "npz", str(path))
        assert path.read_bytes() == content


def test_the_home_is_expanded(run: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert export(run, "png", "~/png")[1] == tmp_path / "png"
    assert export(run, "npz", "~/x.npz")[1] == tmp_path / "x.npz"


def test_a_digits_export_read_back_has_the_features_and_figures_of_the_run(
    small_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = made(small_run("samples=blocks", "metrics.names=[fd_digits]"))
    folder, out = tmp_path / "png", tmp_path / "back.safetensors"
    export(spec, "png", str(folder))
    picture = Image.open(folder / "000000" / "000000.png")
    assert picture.mode == "L" and picture.size == (8, 8)
    words = ["reference", f"source={folder}", "resolution=8", "detectors=digits", f"to={out}", "device=cpu"]
    assert main([*words, "keep_features=true"]) == 0
    assert "digits of 40 images" in capsys.readouterr().out
    back = read_reference(out)["digits"]
    key = detector_keys(spec, assets_of(spec))["digits"]
    store = RunStore.open(spec)
    kept = torch.cat(
        [store.read_features(key, block)[0]["features"] for block in blocks_of(spec.seed_range, 8)]
    )
    assert back.features is not None and back.stats is not None
    assert torch.allclose(back.features, kept, rtol=0, atol=1e-5)
    real = load_real(spec.metrics, assets_of(spec))["digits"].stats
    assert real is not None
    distance = frechet_distance(back.stats.mean, back.stats.covariance, real.mean, real.covariance)
    assert distance == pytest.approx(score(spec).metrics["fd_digits"].value, rel=1e-4)


def test_the_digits_detector_wants_its_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reference", f"source={tmp_path}", f"to={tmp_path / 'x.safetensors'}", "detectors=digits"]
    assert main([*words, "resolution=16"]) == 2
    assert "'digits' takes images of 8x8 pixels, and resolution is 16; write resolution=8" in (
        capsys.readouterr().err
    )
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "a.png")
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "b.png")
    assert main([*words, "resolution=8"]) == 2
    assert "the digits detector takes grey images, but the channels differ" in capsys.readouterr().err


def test_reference_tells_what_it_leaves_out_and_that_images_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8), 80 * index, np.uint8)).save(tmp_path / "set" / f"{index}.tif")
    (tmp_path / "set" / "notes.txt").write_text("")
    words = ["reference", "source=~/set", "to=~/x.safetensors", "resolution=8", "detectors=digits"]
    assert main([*words, "device=cpu"]) == 0
    shown = capsys.readouterr()
    assert "digits of 3 images (1 files left out), sha256" in shown.out
    assert (
        f"1 file is left out of '{tmp_path / 'set'}': 1 no image that Pillow opens (notes.txt)" in shown.err
    )
    assert main([*words, "device=cpu"]) == 0
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(tmp_path / "set" / "1.tif")
    assert main([*words, "device=cpu"]) == 2
    assert "whose content changed since; remove '" in capsys.readouterr().err


def test_manifest_says_which_run_it_is_of(run: RunSpec, tmp_path: Path) -> None:
    export(run, "png", str(tmp_path / "png"))
    content = json.loads((tmp_path / "png" / MANIFEST).read_text())
    assert content == {"run_id": run.run_id, "seeds": "0-19", "first": 0, "count": 20}
