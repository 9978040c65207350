"""The track of ImageNet 256x256: protocol, tables, and the files that they need, without a network."""

from __future__ import annotations

import functools

import pytest

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import table_file, table_runs
from erk_bench.runs.cost import count_evaluations, estimate
from erk_bench.runs.needs import addresses_of
from erk_bench.spec import RunSpec

REFERENCE = "adm:imagenet/256/VIRTUAL_imagenet256_labeled.npz"
NAMES = ("fid", "sfid", "is_adm@inception", "precision_adm@inception", "recall_adm@inception")


@functools.cache
def specs_of(name: str) -> list[RunSpec]:
    return table_runs(table_file(name), [], fetch=False)[1]


def test_the_track_is_adms_protocol() -> None:
    spec = run_spec(["track=imagenet256"], fetch=False)
    assert spec.metrics.protocol == "adm" and spec.metrics.reference == REFERENCE
    assert len(spec.metrics.names) == len(NAMES) and spec.metrics.names[0] == "fid"
    assert len(spec.seed_range) == 50_000 and spec.model.name == "sit-xl-2"
    url = Assets.from_environment().url(REFERENCE)
    assert url and url.endswith("/ref_batches/imagenet/256/VIRTUAL_imagenet256_labeled.npz")
    jit = run_spec(["model=jit-b-16", "metrics=imagenet256-jit"], fetch=False)
    assert jit.metrics.reference.endswith("/jit_in256_stats.npz")
    assert len(jit.seed_range) == 50_000
    assert jit.metrics.reference in addresses_of(jit)


@pytest.mark.parametrize(
    "model",
    ["dit-xl-2", "sit-xl-2", "repa-sit-xl-2", "lightningdit-xl-1", "lightningdit-xl-1-64ep", "jit-b-16"],
)
def test_a_preset_brings_the_track(model: str) -> None:
    assert run_spec([f"model={model}"], fetch=False).metrics.reference == REFERENCE


@pytest.mark.parametrize("name", ["imagenet256", "heun-few"])
@pytest.mark.slow
def test_each_row_is_planned_without_its_files(name: str) -> None:
    for spec in specs_of(name):
        assert spec.coordinates == "native" and spec.metrics.reference == REFERENCE
        assert sum(count_evaluations(spec)) > 0
        needed = addresses_of(spec)
        assert REFERENCE in needed and spec.model.weights.path in needed
        assert all(Assets.from_environment().url(address) for address in needed)
        assert not spec.model.weights.sha256


def test_published_values_are_those_of_the_papers() -> None:
    """By model, guidance and sampler; those quoted from memory say so, and what is unknown is empty."""
    table = table_file("imagenet256")
    found = {
        (spec.model.name, spec.guidance.active, spec.native.sde): (list(row.published.values()), row.source)
        for row, spec in zip(table.rows, specs_of("imagenet256"), strict=True)
    }
    values = {key: value for key, (value, _) in found.items()}
    assert values == {
        ("dit-xl-2", False, 0): [9.62], ("dit-xl-2", True, 0): [2.27, 4.60, 278.24, 0.83, 0.57],
        ("sit-xl-2", False, 0): [8.61], ("sit-xl-2", True, 0): [2.15],
        ("sit-xl-2", True, 0.04): [2.06, 4.50, 270.27, 0.82, 0.59],
        ("repa-sit-xl-2", True, 0.04): [1.42, 4.70, 305.7, 0.80, 0.65],
        ("lightningdit-xl-1", False, 0): [2.17], ("lightningdit-xl-1", True, 0): [1.35],
        ("lightningdit-xl-1-64ep", False, 0): [5.14], ("lightningdit-xl-1-64ep", True, 0): [2.11],
    }  # fmt: skip
    for key, (value, source) in found.items():
        assert ("to be checked" in source) == (len(value) > 1), key
    assert table.published and table.published.images == 50_000
    # DiT's program adds noise and SiT's ODE solver adapts its steps, which these rows do not.
    assert [bool(row.sampler) for row in table.rows] == [True] * 4 + [False] * 6


def test_few_steps_of_heun_with_and_without_corrections() -> None:
    specs = specs_of("heun-few")
    groups = [specs[start : start + 3] for start in range(0, len(specs), 3)]
    assert [group[0].schedule.num_steps for group in groups] == [5, 10, 25, 50] * 4
    for group in groups:
        assert [spec.correction.name for spec in group] == ["none", "erk_guid", "erk_dx"]
        assert len({(spec.model.name, spec.guidance, spec.schedule) for spec in group}) == 1
        assert all(spec.solver.name == "heun" for spec in group)
        # Corrections cost no evaluations.
        assert len({count_evaluations(spec) for spec in group}) == 1
    assert {spec.guidance.active for spec in specs} == {False, True}


def test_fetch_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "table=imagenet256", "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    for address in ("DiT-XL-2-256x256.pt", "SiT-XL-2-256x256.pt", "VIRTUAL_imagenet256_labeled.npz"):
        assert address in printed
    assert "missing" in printed
    assert main(["fetch", "track=imagenet256", "offline=true"]) == 2
    told = capsys.readouterr().err
    assert "VIRTUAL_imagenet256_labeled.npz' is not in the cache, and offline=true. Put the file at" in told


@pytest.mark.slow
def test_plan_knows_the_cost_without_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    (spec, *_) = specs_of("heun-few")
    cost = estimate(spec)
    assert cost.nfe == 10 and cost.network_flops > 1e11 and cost.image_bytes == 3 * 256 * 256
    with pytest.raises(UserError, match="no such|is not in the cache"):
        Assets.from_environment(offline=True).locate(spec.model.weights.path)
