"""The pipeline: blocks, resume, bytes, non-finite output, scores."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.networks.checkpoint import Checkpoint, file_sha256, read_checkpoint, write_checkpoint
from erk_bench.runs.blocks import Block, Worker, blocks_of
from erk_bench.runs.claims import Claims
from erk_bench.runs.cost import count_evaluations
from erk_bench.runs.device import Place
from erk_bench.runs.export import finish_samples, images_of
from erk_bench.runs.generate import Progress, generate, unfinished
from erk_bench.runs.launches import LOCKS
from erk_bench.runs.sample_block import SampledBlock, sample_block
from erk_bench.runs.score import finished_record, record_path, score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


def ignore(spec: RunSpec, count: int) -> None:
    """A progress callback that shows nothing."""


def contents(spec: RunSpec) -> dict[str, bytes]:
    """All block files of a run by name."""
    folder = RunStore.folder_of(spec)
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))
    }


def generated(spec: RunSpec, world_size: int = 1) -> dict[str, bytes]:
    """Generate with several workers, one after the other and each its own share, and return all bytes."""
    with patch.object(Claims, "_lock", return_value=False):  # as where there are no locks
        for rank in reversed(range(world_size)):
            generate([[spec]], Worker(rank, world_size, rank), ignore, features=True)
    return contents(spec)


def sampled(spec: RunSpec, seeds: range) -> SampledBlock:
    return sample_block(spec, seeds, Place.of(spec))


@contextmanager
def claimed(spec: RunSpec, *indices: int) -> Iterator[subprocess.Popen[str]]:
    """Another process computes these blocks of a run, until it is killed."""
    code = (
        "import sys; from pathlib import Path; from erk_bench.runs.claims import Claims\n"
        "from erk_bench.runs.blocks import Block\n"
        "claims = Claims(Path(sys.argv[1]))\n"
        "print(all(claims.take(sys.argv[2], Block(int(word), 8)) for word in sys.argv[3:]), flush=True)\n"
        "sys.stdin.read()"
    )
    path = Path(spec.out) / LOCKS / "blocks"
    words = [sys.executable, "-c", code, str(path), spec.run_id, *map(str, indices)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


def test_same_bytes_for_every_world_size(small_run: MakeSpec, tmp_path: Path) -> None:
    runs = [
        generated(small_run("correction=erk_guid", "guidance=cfg", f"out={tmp_path / str(size)}"), size)
        for size in (1, 2, 3)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 2 * 5  # images and features of five blocks


def test_a_worker_takes_over_what_nobody_has_begun(small_run: MakeSpec, tmp_path: Path) -> None:
    """Rank 0 of 3 alone makes all five blocks, the same bytes; not those that another process computes."""
    plain = generated(small_run(f"out={tmp_path / 'plain'}"))
    spec = small_run()
    counts: list[int] = []
    generate([[spec]], Worker(0, 3, 0), lambda _, count: counts.append(count), features=True)
    assert contents(spec) == plain and len(counts) == 5
    generate([[spec]], Worker(1, 3, 1), lambda _, count: counts.append(count), features=True)
    assert len(counts) == 5

    held = small_run(f"out={tmp_path / 'held'}")
    blocks = blocks_of(held.seed_range, held.block_size)
    # Rank 1, which owns blocks 1 and 4, computes them.
    with claimed(held, 1, 4) as process:
        generate([[held]], Worker(0, 3, 0), ignore, features=True)
        assert unfinished(held, features=True) == [blocks[1], blocks[4]]
        # Another launch, of which block 4 is the only one, waits; its computer is killed meanwhile.
        threading.Timer(0.5, process.kill).start()
        last = dataclasses.replace(held, seeds="32-39")
        generate([[last]], Worker(), ignore, features=True)
    assert unfinished(held, features=True) == [blocks[1]]
    generate([[held]], Worker(2, 3, 2), ignore, features=True)
    assert contents(held) == plain


def test_a_grid_is_taken_over_with_shared_trajectories(small_run: MakeSpec, tmp_path: Path) -> None:
    def group(out: str) -> list[RunSpec]:
        return [
            small_run("correction=erk_guid", f"correction.w_stiff={w}", f"out={tmp_path / out}")
            for w in (0.5, 1)
        ]

    alone, taken = group("alone"), group("taken")
    for specs, worker in ((alone, Worker()), (taken, Worker(1, 2, 1))):
        generate([specs], worker, ignore, features=True, shared=True)
    for one, other in zip(alone, taken, strict=True):
        assert contents(one) == contents(other) and len(contents(one)) == 10
        timings = RunStore.open(other).timings().values()
        assert [timing.cells for timing in timings] == [2] * 5


def test_a_larger_range_continues(small_run: MakeSpec, tmp_path: Path) -> None:
    """10 images extend to 40; unaligned ends are computed as whole blocks."""
    few = small_run("seeds=3-12")
    first = generated(few)
    assert len(first) == 2 * 2
    times = {path: path.stat().st_mtime_ns for path in RunStore.folder_of(few).rglob("*.safetensors")}
    whole = generated(small_run("seeds=0-39"))
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert whole == generated(small_run("seeds=0-39", f"out={tmp_path / 'at-once'}"))


def test_progress_counts_only_new_images(small_run: MakeSpec) -> None:
    counts: list[int] = []
    generate([[small_run("seeds=0-15")]], Worker(), lambda spec, count: counts.append(count), features=True)
    generate([[small_run("seeds=0-39")]], Worker(), lambda spec, count: counts.append(count), features=True)
    assert counts == [8, 8, 8, 8, 8]


def test_restart_with_another_world_size(small_run: MakeSpec, tmp_path: Path) -> None:
    """Interrupted under two workers, finished by three."""
    spec = small_run()

    def stop_after(number: int) -> Progress:
        done: list[int] = []

        def advance(spec: RunSpec, count: int) -> None:
            done.append(count)
            if len(done) == number:
                raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        generate([[spec]], Worker(1, 2, 1), stop_after(1), features=True)
    assert 0 < len(unfinished(spec, features=True)) < 5
    assert generated(spec, 3) == generated(small_run(f"out={tmp_path / 'plain'}"))


def test_sample_depends_on_its_seed_alone(small_run: MakeSpec) -> None:
    """Samples of one block equal those of another grouping of the same seeds, to rounding."""
    spec = small_run()
    eight = sampled(spec, range(8)).host().images
    four = [sampled(spec, range(k, k + 4)).host().images for k in (0, 4)]
    assert (eight.int() - torch.cat(four).int()).abs().max() <= 1


def test_class_label_is_fixed_without_moving_the_noise(small_run: MakeSpec) -> None:
    free = sampled(small_run(), range(8)).host()
    fixed = sampled(small_run("class_label=7"), range(8)).host()
    assert fixed.classes.tolist() == [7] * 8 and free.classes.tolist() != [7] * 8
    same = free.classes == 7
    assert torch.equal(free.images[same], fixed.images[same])
    with pytest.raises(UserError, match="labels 0 to 9"):
        sampled(small_run("class_label=10"), range(8))


def test_images_may_be_deleted_once_features_are_there(small_run: MakeSpec) -> None:
    spec = small_run()
    before = generated(spec)
    shutil.rmtree(RunStore.folder_of(spec) / "images")
    assert unfinished(spec, features=True) == []
    generate([[spec]], Worker(), ignore, features=True)
    assert not (RunStore.folder_of(spec) / "images").exists()
    assert score(spec).num_images == 40
    assert generated(spec, 1).keys() < before.keys()


def broken_checkpoint(tmp_path: Path, value: float) -> list[str]:
    """Settings of a model whose output is `value` times infinity or not finite."""
    source = read_checkpoint(Assets.from_environment().locate("package:digits/weights/denoiser.safetensors"))
    weights = {**source.weights, "unet.out_gain": torch.tensor(value)}
    path = tmp_path / "broken.safetensors"
    write_checkpoint(path, Checkpoint(source.class_name, source.init, weights, "0" * 64))
    return [f"model.weights.path={path}", "model.name=broken"]


def test_non_finite_output_stops_the_worker(small_run: MakeSpec, tmp_path: Path) -> None:
    spec = small_run(*broken_checkpoint(tmp_path, float("nan")))
    with pytest.raises(UserError, match=r"not finite for seeds 0, 1, 2, 3, 4 and others \(8 of 8\)"):
        generate([[spec]], Worker(), ignore, features=True)
    assert contents(spec) == {}


def test_changed_weights_are_refused(small_run: MakeSpec, tmp_path: Path) -> None:
    """A checkpoint that changes after its hash was taken is not used."""
    settings = broken_checkpoint(tmp_path, 1.0)
    spec = small_run(*settings)
    broken_checkpoint(tmp_path, 2.0)
    with pytest.raises(UserError, match=f"not {spec.model.weights.sha256}; the file changed"):
        generate([[spec]], Worker(), ignore, features=True)


def test_pinned_hash_is_enforced(small_run: MakeSpec) -> None:
    digest = "d" * 64
    with pytest.raises(UserError, match=f"not {digest}"):
        generate([[small_run(f"model.weights.sha256={digest}")]], Worker(), ignore, features=True)


def test_guide_of_another_shape_is_refused(small_run: MakeSpec, tmp_path: Path) -> None:
    other = Path(__file__).parents[1] / "data" / "edm2_c_pixel_cond.pkl"
    spec = small_run(f"model.unconditional.path={other}", "guidance=cfg")
    with pytest.raises(UserError, match=r"differ in \(channels, resolution\): \(1, 8\) and \(3, 16\)"):
        generate([[spec]], Worker(), ignore, features=True)


def test_detector_of_another_shape_is_refused(small_run: MakeSpec) -> None:
    spec = small_run(
        f"model.weights.path={Path(__file__).parents[1] / 'data' / 'edm2_c_pixel_cond.pkl'}",
        "model.name=golden",
        "model.decoder=rgb",
    )
    with pytest.raises(UserError, match=r"digits detector takes uint8 images \[B, 1, 8, 8\]"):
        generate([[spec]], Worker(), ignore, features=True)


def test_the_same_run_twice_is_done_once(small_run: MakeSpec) -> None:
    counts: list[int] = []
    spec = small_run()
    generate([[spec], [spec]], Worker(), lambda spec, count: counts.append(count), features=True)
    assert sum(counts) == 40


def test_decoder_of_another_number_of_channels_is_refused(small_run: MakeSpec) -> None:
    with pytest.raises(UserError, match="decoder 'rgb' takes 3 channels, the model has 1"):
        generate([[small_run("model.decoder=rgb")]], Worker(), ignore, features=True)


def test_score_counts_missing_blocks(small_run: MakeSpec) -> None:
    spec = small_run()
    generate([[small_run("seeds=0-23")]], Worker(), ignore, features=True)
    with pytest.raises(UserError, match=r"2 of 5 blocks .* missing \(first: seeds 24-31\)"):
        score(spec)


def test_record_explains_itself(small_run: MakeSpec) -> None:
    spec = small_run("guidance=autoguidance", "correction=erk_guid", "seeds=3-36")
    generated(spec)
    record = score(spec)
    assert record.run_spec == spec and record.num_images == 34
    assert (record.nfe, record.nfe_guide) == (7, 7) == count_evaluations(spec)
    assert set(record.metrics) == set(spec.metrics.names)
    assert all(len(metric.replicates) == 5 for metric in record.metrics.values())
    assert all(metric.standard_error > 0 for metric in record.metrics.values())
    assert len(record.environment["sampled_on"]) == 1
    assert set(record.seconds_per_block) == {"0", "1", "2", "3", "4"}
    weights = Assets.from_environment().locate("package:digits/weights/denoiser.safetensors")
    assert record.spec["model"]["weights"]["sha256"] == file_sha256(weights)
    assert finished_record(spec) == record
    assert finished_record(small_run("guidance=autoguidance", "correction=erk_guid")) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"\xff\xfe",
        lambda raw: b"[" * 100_000,
        lambda raw: raw.replace(b'"num_images": 40', b'"num_images": 41'),
        lambda raw: raw.replace(b'"seeds": "0-39"', b'"seeds": "0-31"'),
        lambda raw: raw.replace(b'"value": ', b'"value": "x", "was": '),
        lambda raw: raw.replace(b'"nfe": 7', b'"nfe": "7"'),
        lambda raw: raw.replace(b'"nfe": 7', b'"nfe": NaN'),
    ],
)
def test_a_damaged_record_is_scored_again(
    damage: Callable[[bytes], bytes], small_run: MakeSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = small_run("metrics.names=[fd_digits]")
    generate([[spec]], Worker(), ignore, features=True)
    good = score(spec)
    path = record_path(spec)
    raw = path.read_bytes()
    assert damage(raw) != raw
    path.write_bytes(damage(raw))
    assert finished_record(spec) is None
    assert "was damaged and is made again" in capsys.readouterr().err
    assert path.with_suffix(".damaged").is_file()
    path.write_bytes(damage(raw))  # found by who writes it
    assert score(spec).metrics == good.metrics
    assert finished_record(spec) is not None


def test_each_protocol_has_a_record(small_run: MakeSpec) -> None:
    """A run measured by one of the field's protocols keeps its other record."""
    plain = small_run("metrics.names=[fd_digits]")
    other = dataclasses.replace(plain, metrics=dataclasses.replace(plain.metrics, protocol="edm2"))
    generate([[plain]], Worker(), ignore, features=True)
    for spec in (plain, other):
        assert finished_record(spec) is None
        score(spec)
    assert record_path(plain).name == "0-39.json" and record_path(other) != record_path(plain)
    for spec in (plain, other):
        found = finished_record(spec)
        assert found is not None and found.source.metrics.protocol == spec.metrics.protocol


def test_score_does_not_depend_on_world_size(small_run: MakeSpec, tmp_path: Path) -> None:
    scores = []
    for size in (1, 3):
        spec = small_run(f"out={tmp_path / str(size)}")
        generated(spec, size)
        scores.append(score(spec).metrics)
    assert scores[0] == scores[1]


def test_interval_is_counted(small_run: MakeSpec) -> None:
    spec = small_run("guidance=cfg", "guidance.interval=[0.5,5.0]", "schedule.num_steps=8")
    nfe, nfe_guide = count_evaluations(spec)
    assert nfe == 15 and 0 < nfe_guide < 15


def test_device_names(small_run: MakeSpec) -> None:
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        generate([[small_run("device=gpu")]], Worker(), ignore, features=True)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no GPU"):
            generate([[small_run("device=cuda")]], Worker(), ignore, features=True)


def test_samples_none_keeps_features_only(small_run: MakeSpec, tmp_path: Path) -> None:
    spec = small_run("samples=none")
    files = generated(spec)
    kept = generated(small_run(f"out={tmp_path / 'kept'}"))
    assert files and files == {name: data for name, data in kept.items() if name.startswith("features")}
    assert unfinished(spec, features=True) == []
    assert score(spec).metrics == score(small_run(f"out={tmp_path / 'kept'}")).metrics


def test_samples_png_are_the_same_pixels(small_run: MakeSpec, tmp_path: Path) -> None:
    """EDM2's folders in the place of block files; later metrics read them."""
    spec, blocks = small_run("samples=png"), small_run(f"out={tmp_path / 'blocks'}")
    assert {name.partition("/")[0] for name in generated(spec)} == {"features"}
    generated(blocks)
    folder = RunStore.folder_of(spec)
    assert len(list((folder / "png").glob("000000/*.png"))) == 40
    for block in blocks_of(spec.seed_range, spec.block_size):
        ours, theirs = (RunStore.open(each).read_images(block) for each in (spec, blocks))
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.classes, theirs.classes)
        assert (ours.nfe, ours.nfe_guide) == (theirs.nfe, theirs.nfe_guide)
    features = contents(spec)
    shutil.rmtree(folder / "features")
    assert generated(spec) == features  # from the PNG files, sampled once only
    assert len(RunStore.open(spec).timings()) == 5


def test_samples_png_asked_for_later(small_run: MakeSpec) -> None:
    """A finished run gets its PNG files from its block files."""
    generated(small_run())
    spec = small_run("samples=png")
    assert len(unfinished(spec, features=True)) == 5
    generated(spec)
    assert unfinished(spec, features=True) == []
    assert len(list((RunStore.folder_of(spec) / "png").glob("000000/*.png"))) == 40


def test_damaged_png_is_made_anew(small_run: MakeSpec) -> None:
    spec = small_run("samples=png")
    generated(spec)
    folder = RunStore.folder_of(spec)
    image = folder / "png" / "000000" / "000009.png"
    before = image.read_bytes()
    image.write_bytes(before[: len(before) // 2])
    with pytest.raises(UserError, match="PNG files of seeds 8-15 .* damaged.*'erk-bench run' or 'generate'"):
        RunStore.open(spec).read_images(Block(1, 8))
    assert [block.index for block in unfinished(spec, features=True)] == [1]
    generated(spec)
    assert image.read_bytes() == before


def test_samples_npz_is_written_once_all_is_there(small_run: MakeSpec) -> None:
    spec = small_run("samples=npz", "seeds=3-12")
    generated(spec)
    path = finish_samples(spec)
    assert path is not None
    with np.load(path) as stored:
        assert stored["arr_0"].shape == (10, 8, 8, 3) and stored["arr_0"].dtype == np.uint8
        assert stored["arr_1"].shape == (10,) and stored["arr_1"].dtype == np.int64
        expected = [image for _, image, _ in images_of(spec)]
        assert (stored["arr_0"] == np.stack(expected)).all()
    before = path.read_bytes()
    path.unlink()
    assert finish_samples(spec) == path and path.read_bytes() == before
    shutil.rmtree(RunStore.folder_of(spec) / "images")
    assert unfinished(spec, features=True) == []  # the .npz is what was asked for


def test_out_of_gpu_memory_names_the_batch_to_try(
    small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generated(small_run("seeds=0-7"))
    monkeypatch.setattr("erk_bench.runs.sample_block.solve", exhausted)
    with pytest.raises(
        UserError, match="out of GPU memory with block_size 8.*nothing is lost. Try block_size=4"
    ):
        generated(small_run())
    assert len(unfinished(small_run(), features=True)) == 4


def test_features_that_are_not_finite_are_told(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": torch.full((len(images), 64), torch.nan), "logits": torch.zeros(len(images), 10)}

    monkeypatch.setattr("erk_bench.evaluation.detectors._network", lambda *_: broken)
    with pytest.raises(UserError, match="features of .*, seeds 0-7, by 'digits' are not finite"):
        generated(small_run())


def test_a_failing_write_stops_the_run(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written in threads; what fails there is raised, and the other blocks are whole."""
    spec = small_run("samples=none")
    write = RunStore.write_features

    def full(store: RunStore, key: str, block: Block, *rest: Any, **more: bool) -> bool:
        if block.index == 1:
            raise UserError("disk full while writing")
        return write(store, key, block, *rest, **more)

    monkeypatch.setattr(RunStore, "write_features", full)
    with pytest.raises(UserError, match="disk full"):
        generated(spec)
    monkeypatch.undo()
    missing = [block.index for block in unfinished(spec, features=True)]
    assert 1 in missing and 0 not in missing
    assert len(generated(spec)) == 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_make_the_same_images(small_run: MakeSpec) -> None:
    """To a grey level; the run has another name all the same, since rounding differs."""
    plain, compiled = small_run(), small_run("compile=true")
    images = [sampled(spec, range(8)).host().images.int() for spec in (plain, compiled)]
    assert (images[0] - images[1]).abs().max() <= 1
    assert plain.run_id != compiled.run_id
