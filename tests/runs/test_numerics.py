"""Arithmetic with a name: what each does, what is refused, and that no run decides for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import table_file, table_runs
from erk_bench.evaluation.detectors import extract_all
from erk_bench.networks.vae import load_vae
from erk_bench.runs import finish_block, sample_block
from erk_bench.runs.blocks import Worker
from erk_bench.runs.checks import check_names
from erk_bench.runs.device import Place, set_up_device
from erk_bench.runs.generate import generate
from erk_bench.runs.numerics import NUMERICS, STRICT, arithmetic, compiles, numerics_of, switch
from erk_bench.runs.records import read_record, write_record
from erk_bench.runs.score import score
from erk_bench.spec import run as run_spec_module
from tests.assets import write_vae

MakeSpec = Callable[..., Any]


def flags() -> tuple[bool, bool]:
    """Whether a GPU computes convolutions and products in TF32."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def flags_of_before() -> Iterator[None]:
    before = flags()
    switch(STRICT)
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_spec_knows_every_row() -> None:
    assert tuple(NUMERICS) == run_spec_module.NUMERICS
    with pytest.raises(UserError, match="unknown numerics 'publishd'; did you mean 'published'"):
        run_spec(["numerics=publishd"])


def test_strict_is_the_default_and_enters_no_name() -> None:
    assert run_spec([]).run_id == run_spec(["numerics=strict"]).run_id
    assert len({run_spec([f"numerics={name}"]).run_id for name in NUMERICS}) == 3


EXPECTED = {"strict": (False, False), "published": (True, False), "fast": (True, True)}


@pytest.mark.parametrize("name", NUMERICS)
def test_switches_hold_inside_the_block_alone(name: str) -> None:
    spec = run_spec([f"numerics={name}"])
    with arithmetic(spec):
        assert flags() == EXPECTED[name]
        with arithmetic(run_spec([])):
            assert flags() == (False, False)
        assert flags() == EXPECTED[name]
    assert flags() == (False, False)
    with pytest.raises(ZeroDivisionError), arithmetic(spec):
        1 / 0  # noqa: B018
    assert flags() == (False, False)


@pytest.mark.usefixtures("pretend_gpu")
def test_a_gpu_begins_strict() -> None:
    switch(NUMERICS["fast"])
    assert set_up_device("cuda", 0).type == "cuda" and flags() == (False, False)


@pytest.mark.parametrize("order", [("strict", "published", "fast"), ("fast", "published", "strict")])
def test_no_run_decides_for_another(
    order: tuple[str, ...], small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, one network and one detector: each run samples, decodes and extracts in its own way."""
    seen: dict[str, set[tuple[str, tuple[bool, bool]]]] = {name: set() for name in order}
    solve, decode = sample_block.solve, sample_block.decoder

    def watched(name: str, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen[name].add((what, flags()))
            return function(*arguments, **options)

        return call

    for name in order:
        monkeypatch.setattr(sample_block, "solve", watched(name, "sampling", solve))
        monkeypatch.setattr(sample_block, "decoder", lambda *a, n=name: watched(n, "decoding", decode(*a)))
        monkeypatch.setattr(
            finish_block, "extract_all", lambda *a, n=name: watched(n, "features", extract_all)(*a)
        )
        spec = small_run(f"numerics={name}", "seeds=0-7", "schedule.num_steps=2", "metrics.names=[fd_digits]")
        generate([[spec]], Worker(), lambda *_: None, features=True)
    for name, found in seen.items():
        assert found == {(what, EXPECTED[name]) for what in ("sampling", "decoding", "features")}


def test_the_record_tells(small_run: MakeSpec, tmp_path: Path) -> None:
    spec = small_run("numerics=published", "seeds=0-15", "metrics.names=[fd_digits]")
    generate([[spec]], Worker(), lambda *_: None, features=True)
    write_record(tmp_path / "record.json", score(spec))
    assert read_record(tmp_path / "record.json").run_spec.numerics == "published"


def test_plan_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "numerics=published", "seeds=0-9", "throughput=1"]) == 0
    assert f"numerics=published ({NUMERICS['published'].says})" in " ".join(capsys.readouterr().out.split())


def test_published_tables_compute_as_published() -> None:
    _, specs = table_runs(table_file("table2"), [], "", fetch=False)
    assert {spec.numerics for spec in specs} == {"published"}


@pytest.mark.parametrize("track", ["imagenet512", "imagenet64", "cifar10", "ffhq64", "afhqv2"])
def test_tracks_with_published_figures_compute_as_published(track: str) -> None:
    assert run_spec([f"track={track}"], fetch=False).numerics == "published"


BAD = [
    (["numerics=published", "compile=true"], "compile=true does not go with numerics=published"),
    (["numerics=published", "network_dtype=bfloat16"], "network_dtype=bfloat16 does not go with"),
    (["numerics=fast", "model.decoder=FILE:decode"], "numerics=fast chooses the decoder's dtype"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_what_does_not_go_together(settings: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def decode(x):\n    return x\n")
    with pytest.raises(UserError, match=message) as caught:
        run_spec([word.replace("FILE", str(file)) for word in settings])
    assert "\n" not in str(caught.value)


GOOD = [
    ["numerics=strict", "compile=true"],
    ["numerics=strict", "network_dtype=bfloat16"],
    ["numerics=published", "network_dtype=float16"],
    ["numerics=fast", "compile=true", "network_dtype=bfloat16"],
]


@pytest.mark.parametrize("settings", GOOD)
def test_what_goes_together(settings: list[str]) -> None:
    check_names(run_spec(settings))


def test_fast_compiles_on_gpus_alone() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert compiles(run_spec(["numerics=fast"]), cuda) and not compiles(run_spec(["numerics=fast"]), cpu)
    assert compiles(run_spec(["compile=true"]), cpu) and not compiles(run_spec(["numerics=published"]), cuda)


def test_published_attention_reaches_the_network(small_run: MakeSpec) -> None:
    images = {}
    for name in ("strict", "published"):
        spec = small_run(f"numerics={name}")
        assert numerics_of(spec) is NUMERICS[name]
        images[name] = sample_block.sample_block(spec, range(8), Place.of(spec)).host().images.int()
    assert (images["strict"] - images["published"]).abs().max() <= 1


def test_a_vae_in_bfloat16_is_close(tmp_path: Path) -> None:
    folder = write_vae(tmp_path / "vae", levels=4)
    files = (folder / "config.json", folder / "diffusion_pytorch_model.safetensors")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = [
        load_vae(*files, "cpu", row.vae_dtype, row.vae_batch)(latents).int() for row in NUMERICS.values()
    ]
    assert torch.equal(images[0], images[1])  # strict and published decode in float32
    difference = (images[0] - images[2]).abs().float()
    assert 0 < difference.mean() < 1 and difference.max() <= 16
