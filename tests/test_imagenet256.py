"""Diffusion transformers from an empty cache to a table, with tiny checkpoints in the published formats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import erk_bench as api
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.runs.records import read_record
from tests.assets import transformer_weights, write_inception, write_transformer, write_vae
from tests.http_server import FileServer, serving
from tests.track import environment_of, erk_bench, random_stats

INCEPTION = "torch_fidelity/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
VAE = "huggingface/stabilityai/sd-vae-ft-ema/resolve/main"
REFERENCE = "adm/imagenet/256/VIRTUAL_imagenet256_labeled.npz"
LIGHTNING = "hustvl/lightningdit-xl-imagenet256-800ep/resolve/main/lightningdit-xl-imagenet256-800ep.pt"
LATE = "guidance.interval=[0.125,1]"
# Of each family: its preset, where its file is served, and how its program samples.
PUBLISHED = {
    "dit": ("dit-xl-2", "dit/DiT-XL-2-256x256.pt", ["solver=euler", "schedule=ddpm", "schedule.num_steps=4"]),
    "sit": ("sit-xl-2", "sit/SiT-XL-2-256x256.pt", ["schedule.num_steps=2"]),
    "repa": ("repa-sit-xl-2", "repa/last.pt", ["guidance.interval=[0,0.7]", "schedule.num_steps=3"]),
    "lightningdit": (
        "lightningdit-xl-1",
        f"huggingface/{LIGHTNING}",
        ["solver=euler", "schedule.num_steps=3", "schedule.timestep_shift=0.3", LATE],
    ),
    "jit": ("jit-b-16", "jit/jit-b-16.pth", ["guidance.interval=[0.1,1]", "schedule.num_steps=2"]),
}  # fmt: skip
SMALLER = ["model.weights.architecture=null", "model.weights.num_heads=2"]  # than the preset's network
# LightningDiT's decoder is in no library here.
DECODER = """
import torch

def decode(x):
    '''uint8 [B, 3, 256, 256] of latents [B, 32, 16, 16].'''
    return (x[:, :3] * 40 + 128).clamp(0, 255).byte().repeat_interleave(16, 2).repeat_interleave(16, 3)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the publishers' sites are."""
    folder = tmp_path_factory.mktemp("served")
    for family, (_, place, _) in PUBLISHED.items():
        write_transformer(folder / place, family)
    write_transformer(folder / "sit/tiny.safetensors", "sit")
    write_vae(folder / VAE, levels=4)
    (folder / INCEPTION).parent.mkdir(parents=True)
    write_inception(folder / INCEPTION)
    images = np.random.default_rng(0).integers(0, 256, (32, 256, 256, 3), dtype=np.uint8)
    full, spatial = random_stats(2048, 1), random_stats(2023, 2)
    (folder / REFERENCE).parent.mkdir(parents=True)
    np.savez(
        folder / REFERENCE, arr_0=images, mu=full["mu"], sigma=full["sigma"], mu_s=spatial["mu"],
        sigma_s=spatial["sigma"],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[FileServer]:
    with serving(served) as state:
        yield state


def table_of(folder: Path) -> Path:
    """A table file of one row a family."""
    (folder / "va_vae.py").write_text(DECODER)
    own = {"jit": ["model.weights.in_context_start=1"], "lightningdit": ["model.decoder=va_vae.py:decode"]}
    rows = [
        {"set": [f"model={model}", *SMALLER, *settings, *own.get(family, [])]}
        for family, (model, _, settings) in PUBLISHED.items()
    ]
    content = {
        "name": "families", "title": "A row a family", "caption": "Tiny random networks.", "headline": "fid",
        "base": ["track=imagenet256", "coordinates=native"], "rows": rows, "figure": "none",
    }  # fmt: skip
    (folder / "families.yaml").write_text(yaml.safe_dump(content))
    return folder / "families.yaml"


TINY = ["device=cpu", "workers=1", "draw_device=cpu", "block_size=8", "metrics.num_groups=4"]


@pytest.mark.slow
def test_five_families_from_fetch_to_table(server: FileServer, tmp_path: Path) -> None:
    """By two torchrun workers, once all is fetched; then SiT's row by one, of weights as safetensors."""
    sources = {place.partition("/")[0] for _, place, _ in PUBLISHED.values()} | {"adm", "torch_fidelity"}
    environment = environment_of(server, sources, tmp_path)
    table = f"table={table_of(tmp_path)}"
    listed = erk_bench("fetch", table, "dry_run=true", environment=environment).stdout
    assert listed.count("missing") == 9 and server.requests == []
    printed = erk_bench("fetch", table, environment=environment).stdout
    assert printed.count("fetched") == 9 and len(server.requests) == 9
    safetensors = [
        "model=sit-xl-2",
        *SMALLER,
        *PUBLISHED["sit"][2],
        "model.weights.path=sit:tiny.safetensors",
    ]
    erk_bench("fetch", *safetensors, environment=environment)

    offline, out = {**environment, "ERK_BENCH_OFFLINE": "1"}, tmp_path / "runs"
    done = erk_bench("table", table, "seeds=0-31", *TINY, f"out={out}", environment=offline, ranks=2)
    assert "'ema' is used, key=NAME takes another" in done.stderr and "'model_ema1' is used" in done.stderr
    text = (out / "tables/families.md").read_text()
    header, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    for title in ("FID", "sFID", "IS (ADM)-Inception", "precision (ADM)-Inception", "recall (ADM)-Inception"):
        assert f"| {title} |" in header
    cells = [[cell.strip() for cell in row.split("|")[1:5]] for row in rows]
    assert cells == [
        ["CFG 1.5", "4", "Euler, dit-xl-2", "4+4"],
        ["CFG 1.5", "2", "Heun, sit-xl-2", "4+4"],
        ["CFG 1.8 for t from 0 to 0.7", "3", "Heun, repa-sit-xl-2", "5+3"],
        ["CFG 6.7 for t from 0.125 to 1", "3", "Euler, lightningdit-xl-1", "3+2"],
        ["CFG 3 for t from 0.1 to 1", "2", "Heun, jit-b-16", "3+2"],
    ]
    records = {r.run_spec.model.name: r for r in map(read_record, out.glob("*/records/*.json"))}
    assert sorted(records) == sorted(model for model, _, _ in PUBLISHED.values())
    for record in records.values():
        assert record.num_images == 32 and record.reference["name"].endswith(
            "VIRTUAL_imagenet256_labeled.npz"
        )
        assert all(math.isfinite(metric.value) for metric in record.metrics.values())

    again = ["run", *safetensors, "coordinates=native", "seeds=0-31", *TINY, f"out={tmp_path / 'again'}"]
    erk_bench(*again, environment=offline)
    (path,) = (tmp_path / "again").glob("*/records/*.json")
    assert read_record(path).metrics == records["sit-xl-2"].metrics


@pytest.mark.parametrize("family", PUBLISHED)
def test_each_published_format_holds_its_average(tmp_path: Path, family: str) -> None:
    """And the same network is that of the weights alone, as safetensors."""
    more = {"in_context_start": 1} if family == "jit" else {}
    published, plain = (
        api.load_denoiser(write_transformer(tmp_path / name, family), family=family, num_heads=2, **more)
        for name in ("published.pt", "plain.safetensors")
    )
    assert isinstance(published, FlowDenoiser) and isinstance(plain, FlowDenoiser)
    expected, found = plain.state_dict(), published.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    stored = transformer_weights(family)["final_layer.linear.bias"]
    assert published.network.final_layer.linear.bias[0] == stored[0]
