"""The ImageNet track from an empty cache to a table, with tiny assets in the published formats over HTTP."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erk_bench.networks.checkpoint import read_checkpoint
from erk_bench.runs.records import Record, read_record
from tests.assets import write_dinov2, write_inception, write_vae, write_vgg16
from tests.conftest import golden_path
from tests.http_server import FileServer, serving
from tests.track import environment_of, erk_bench, random_stats

pytestmark = pytest.mark.slow

NETS = "edm2/posthoc-reconstructions"
# Golden networks in the place of published ones: a and e are conditional, b is unconditional.
SERVED_NETS = {
    "edm2-img512-s-2147483-0.130.pkl": "a",
    "edm2-img512-s-2147483-0.025.pkl": "a",
    "edm2-img512-xs-uncond-2147483-0.025.pkl": "b",
    "edm2-img512-s-2147483-0.070.pkl": "a",
    "edm2-img512-xs-0134217-0.125.pkl": "e",
}
TINY = [
    "device=cpu", "workers=1", "draw_device=cpu", "network_dtype=float32", "block_size=4",
    "metrics.num_groups=4", "metrics.names=[fid,fd_dinov2]",
]  # fmt: skip


def varied(pickled: Path, number: int) -> bytes:
    """A golden pickle with the last bits of one weight changed: no two published files are equal."""
    data = bytearray(pickled.read_bytes())
    weight = max(read_checkpoint(pickled).weights.values(), key=torch.Tensor.numel)
    stored = weight.contiguous().flatten().view(torch.uint8)[:64].numpy().tobytes()
    assert data.count(stored) == 1
    data[data.index(stored)] ^= number
    return bytes(data)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the publishers' sites are."""
    folder = tmp_path_factory.mktemp("served")
    (folder / NETS).mkdir(parents=True)
    for number, (name, letter) in enumerate(SERVED_NETS.items()):
        (folder / NETS / name).write_bytes(varied(golden_path(letter), number))
    (folder / "edm2/dataset-refs").mkdir()
    content = {"fid": random_stats(2048, 1), "fd_dinov2": random_stats(64, 2)}
    (folder / "edm2/dataset-refs/img512.pkl").write_bytes(pickle.dumps(content, protocol=4))
    vae = folder / "huggingface/stabilityai/sd-vae-ft-mse/resolve/31f26fdeee1355a5c34592e401dd41e45d25a493"
    inception = folder / "torch_fidelity/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    vgg16 = folder / "pytorch/vgg16-397923af.pth"
    dinov2 = folder / "dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
    for parent in (vae, inception.parent, vgg16.parent, dinov2.parent):
        parent.mkdir(parents=True)
    write_vae(vae, levels=4)
    write_inception(inception)
    write_vgg16(vgg16)
    write_dinov2(dinov2)
    return folder


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[FileServer]:
    with serving(served) as state:
        yield state


@pytest.fixture(scope="module")
def environment(server: FileServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    sources = ("edm2", "huggingface", "torch_fidelity", "pytorch", "dinov2")
    return environment_of(server, sources, tmp_path_factory.mktemp("home"))


def record_of(out: Path) -> Record:
    (path,) = out.glob("*/records/*.json")
    return read_record(path)


def features_of(out: Path) -> dict[str, bytes]:
    """Every file of features of the runs in a folder, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*/features/*/*"))}


@pytest.fixture(scope="module")
def fetched(environment: dict[str, str], server: FileServer) -> dict[str, str]:
    """The environment once everything of the track is in the cache."""
    listed = erk_bench("fetch", "imagenet512", "dry_run=true", environment=environment).stdout
    assert listed.count("missing") == 11 and server.requests == []
    printed = erk_bench("fetch", "imagenet512", environment=environment).stdout
    assert printed.count("fetched") == 11 and "CC BY-NC-SA 4.0" in printed
    assert len(server.requests) == 11
    lock = Path(environment["ERK_BENCH_LOCK"]).read_text().splitlines()
    assert len(lock) == 11 and all(len(line.split("  ")[0]) == 64 for line in lock)
    again = erk_bench("fetch", "imagenet512", environment=environment).stdout
    assert again.count("verified") == 11 and len(server.requests) == 11
    return environment


def test_fetch_run_table_then_offline(fetched: dict[str, str], server: FileServer, tmp_path: Path) -> None:
    """Two torchrun workers; then the same without a network gives the same bytes."""
    one = ["model=edm2-img512-s-fid", "schedule.num_steps=8", "seeds=100000-100011", *TINY]
    printed = erk_bench("run", *one, f"out={tmp_path / 'a'}", environment=fetched, ranks=2).stdout
    assert "FID" in printed and "FD-DINOv2" in printed
    record = record_of(tmp_path / "a")
    assert record.nfe == 15 and record.num_images == 12
    assert record.reference["name"] == "edm2:dataset-refs/img512.pkl"
    assert record.spec["model"]["vae"]["sha256"] in Path(fetched["ERK_BENCH_LOCK"]).read_text()
    assert not list((tmp_path / "a").glob("*/images"))  # samples=none

    rows = ["table", "table=table2", "rows=8,9", "seeds=100000-100011", *TINY]
    erk_bench(*rows, f"out={tmp_path / 'a'}", environment=fetched, ranks=2)
    text = (tmp_path / "a/tables/table2.md").read_text()
    assert "| published FID | published FD-DINOv2 |" in text and "7.06 (" in text and "136.9 (" in text
    assert "published values are of 50,000 images" in text and "OFF)" not in text

    before = len(server.requests)
    offline = {**fetched, "ERK_BENCH_OFFLINE": "1"}
    erk_bench("run", *one, f"out={tmp_path / 'b'}", environment=offline, ranks=2)
    again = features_of(tmp_path / "b")
    assert again and again.items() <= features_of(tmp_path / "a").items()
    assert len(server.requests) == before
    assert record_of(tmp_path / "b").metrics == record.metrics


@pytest.mark.parametrize("model", ["edm2-img512-s-guid-fid", "edm2-img512-s-autog-fid"])
def test_guided_presets(model: str, fetched: dict[str, str], tmp_path: Path) -> None:
    """Table 3's first row of either model: the preset brings its guiding network and guidance."""
    row = {"edm2-img512-s-guid-fid": "2", "edm2-img512-s-autog-fid": "6"}[model]
    words = ["table", "table=table3", f"rows={row}", "seeds=100000-100007", *TINY, f"out={tmp_path}"]
    erk_bench(*words, environment=fetched)
    record = record_of(tmp_path)
    assert record.run_spec.model.name == model and record.nfe == record.nfe_guide == 31


def test_killed_worker_is_resumed_with_the_same_bytes(fetched: dict[str, str], tmp_path: Path) -> None:
    one = ["run", "model=edm2-img512-s-fid", "schedule.num_steps=8", "seeds=100000-100031", *TINY]
    erk_bench(*one, f"out={tmp_path / 'whole'}", environment=fetched)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "erk_bench.cli", *one]
    broken = tmp_path / "broken"
    launch = subprocess.Popen(
        [sys.executable, *words, f"out={broken}"], env=fetched, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not features_of(broken) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(launch.pid, signal.SIGKILL)
    launch.wait()
    some = features_of(broken)
    whole = features_of(tmp_path / "whole")
    assert 0 < len(some) < len(whole)
    time.sleep(1)  # until the killed workers' locks are released
    erk_bench(*one, f"out={broken}", environment=fetched, ranks=2)
    assert features_of(broken) == whole
    assert record_of(broken).metrics == record_of(tmp_path / "whole").metrics


def test_real_features_for_precision_recall_and_kid(fetched: dict[str, str], tmp_path: Path) -> None:
    """Features of real images by `reference`, then every metric of the track in one run; PNG folders kept."""
    folder = tmp_path / "real"
    folder.mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 25 * (index + 1), (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    file = tmp_path / "real.safetensors"
    make = ["reference", f"source={folder}", "device=cpu"]
    run = ["run", "model=edm2-img512-s-fid", "schedule.num_steps=3", "seeds=0-11", *TINY]
    small = tmp_path / "small.safetensors"
    erk_bench(*make, "resolution=64", f"to={small}", "detectors=dinov2_torch", environment=fetched)
    refused = erk_bench(
        *run, "metrics.names=[fd_dinov2]", f"metrics.reference={small}", environment=fetched, status=2
    ).stderr
    assert "made from images of 64x64 pixels, and the model makes 512x512" in refused

    detectors = "detectors=vgg16,inception,dinov2_torch,dinov2_pil"
    erk_bench(*make, "resolution=512", f"to={file}", detectors, "keep_features=true", environment=fetched)
    names = "fid,fd_dinov2,fd_dinov2_pil,precision,recall,kid"
    words = [
        *run, f"metrics.names=[{names}]", f"metrics.reference={file}", f"metrics.real_features={file}",
        "metrics.kid_subset_size=6", "samples=png", f"out={tmp_path / 'runs'}", "metrics.num_groups=2",
    ]  # fmt: skip
    erk_bench(*words, environment=fetched)
    record = record_of(tmp_path / "runs")
    assert list(record.metrics) == names.split(",")
    assert len(record.detectors) == 4 and record.reference["features"].endswith("real.safetensors")
    assert len(list((tmp_path / "runs").glob("*/png/000000/*.png"))) == 12
    wanting = [*words, "metrics.real_features=null", "metrics.reference=edm2:dataset-refs/img512.pkl"]
    assert (
        "needs features of real images"
        in erk_bench(*wanting, "metrics.names=[kid]", environment=fetched, status=2).stderr
    )


def test_table_4_with_an_edm_network(served: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """EDM's pickle and npz statistics, fetched; Euler at 5 evaluations, Heun and ERK-Guid at 6."""
    (served / "edm/pretrained").mkdir(parents=True)
    (served / "edm/fid-refs").mkdir()
    shutil.copy(golden_path("f"), served / "edm/pretrained/edm-imagenet-64x64-cond-adm.pkl")
    np.savez(served / "edm/fid-refs/imagenet-64x64.npz", **random_stats(2048, 1))
    table = ["table", "table=table4", "rows=0,4,5"]
    own = {"ERK_BENCH_CACHE": str(tmp_path / "cache"), "ERK_BENCH_LOCK": str(tmp_path / "lock")}
    with serving(served) as state:
        mirrors = {
            f"ERK_BENCH_MIRROR_{name.upper()}": f"{state.url}/{name}" for name in ("edm", "torch_fidelity")
        }
        online = {**environment, **own, **mirrors}
        erk_bench("fetch", "table=table4", environment=online)
        assert len(state.requests) == 3
    offline = {**online, "ERK_BENCH_OFFLINE": "1"}
    small = [
        "seeds=0-7",
        "metrics.num_groups=4",
        "block_size=4",
        f"out={tmp_path / 'runs'}",
        f"to={tmp_path}",
    ]
    tiny = [setting for setting in TINY if setting.split("=")[0] in ("device", "workers", "draw_device")]
    printed = erk_bench(*table, *tiny, "network_dtype=float32", *small, environment=offline).stdout
    assert "no verdict" in " ".join(printed.split())  # of 8 images
    text = (tmp_path / "table4.md").read_text()
    assert "| Euler | 5 |" in text and "| ERK-Guid on Heun (0.5, 0.1) | 6 |" in text
    assert "43.81" in text and "89.63" in text and (tmp_path / "table4-nfe.png").is_file()
    records = [read_record(path) for path in (tmp_path / "runs").glob("*/records/*.json")]
    assert sorted(record.nfe for record in records) == [5, 6, 6]
    assert {record.reference["name"] for record in records} == {"edm:fid-refs/imagenet-64x64.npz"}
