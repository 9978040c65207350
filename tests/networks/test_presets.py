"""The published EDM2 presets, and networks by name, path or address."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.networks.presets import preset_files
from erk_bench.networks.sizes import SIZES, architecture
from tests.conftest import golden_facts, golden_path

# EDM2's own figures: FID / FD-DINOv2 by size, of presets without guidance, with CFG, with autoguidance.
PLAIN = {
    "xs": (3.53, 103.39), "s": (2.56, 68.64), "m": (2.25, 58.44), "l": (2.06, 52.25), "xl": (1.96, 45.96),
    "xxl": (1.91, 42.84),
}  # fmt: skip
CFG = {
    "xs": (2.91, 79.94), "s": (2.23, 52.32), "m": (2.01, 41.98), "l": (1.88, 38.20), "xl": (1.85, 35.67),
    "xxl": (1.81, 33.09),
}  # fmt: skip
AUTOGUIDANCE = {"s": (1.34, 36.67), "xxl": (1.25, 24.18)}
PUBLISHED: dict[str, float] = {
    "img512-s-uncond-autog-fid": 3.86, "img512-s-uncond-autog-dino": 90.39,
    "img64-s-fid": 1.58, "img64-m-fid": 1.43, "img64-l-fid": 1.33, "img64-xl-fid": 1.33,
    "img64-s-autog-fid": 1.01, "img64-s-autog-dino": 31.85,
}  # fmt: skip
for table, infix in ((PLAIN, ""), (CFG, "guid-"), (AUTOGUIDANCE, "autog-")):
    for size, (fid, fd_dinov2) in table.items():
        PUBLISHED[f"img512-{size}-{infix}fid"] = fid
        PUBLISHED[f"img512-{size}-{infix}dino"] = fd_dinov2
NAMES = sorted(f"edm2-{name}" for name in PUBLISHED)


def test_all_36_presets_are_there() -> None:
    assert len(NAMES) == 36
    assert sorted(name for name in preset_files() if name.startswith("edm2-")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_a_valid_run(name: str) -> None:
    """Weights, guiding network and weight, track and published value of each."""
    spec = run_spec([f"model={name}"], fetch=False)
    about = yaml.safe_load(preset_files()[name].read_text())["about"]
    latent = "img512" in name
    assert spec.model.name == name and spec.model.decoder == ("sd_vae" if latent else "rgb")
    assert (spec.model.vae is not None) == latent
    assert spec.metrics.reference == f"edm2:dataset-refs/{'img512' if latent else 'img64'}.pkl"
    assert spec.network_dtype == "float16" and spec.seeds == "100000-149999"
    kind = "cfg" if "-guid-" in name else "autoguidance" if "-autog-" in name else "none"
    assert spec.guidance.name == kind and (spec.guidance.weight != 1) == (kind != "none")
    metric = "fid" if name.endswith("-fid") else "fd_dinov2"
    assert about["published"] == {metric: PUBLISHED[name.removeprefix("edm2-")]}

    networks = [(spec.model.weights, about["ema"], about["training_kimg"])]
    if spec.guidance.guide is not None:
        networks.append((spec.guidance.guide, about["guide_ema"], about["guide_training_kimg"]))
    for weights, ema, kimg in networks:
        assert weights.architecture in SIZES and not weights.sha256
        match = re.fullmatch(r"edm2:posthoc-reconstructions/(.+)-(\d{7})-(0\.\d{3})\.pkl", weights.path)
        assert match and match[1] == weights.architecture
        assert int(match[2]) == kimg and float(match[3]) == ema
    assert len(networks) == (1 if kind == "none" else 2)
    if kind == "cfg":
        assert networks[1][0].architecture == "edm2-img512-xs-uncond"


def test_track_and_guidance_of_a_preset_yield_to_the_user() -> None:
    spec = run_spec(["model=edm2-img512-s-guid-fid", "guidance=none", "seeds=0-9"], fetch=False)
    assert spec.guidance.name == "none" and spec.seeds == "0-9"
    weighted = run_spec(["model=edm2-img512-s-guid-fid", "guidance.weight=1.2"], fetch=False)
    assert weighted.guidance.weight == 1.2
    assert run_spec(["model=edm2-img64-s-fid", "track=digits"], fetch=False).metrics.reference == "digits"


@pytest.mark.parametrize("name", sorted(set(golden_facts("architectures_edm2")) & set(SIZES)))
def test_sizes_are_the_published_ones(name: str) -> None:
    published = golden_facts("architectures_edm2")[name]["constructor_kwargs"]
    training = ("dropout", "use_fp16")
    assert architecture(name).arguments == {
        key: value for key, value in published.items() if key not in training
    }


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(UserError, match="unknown architecture 'edm2-img512-z'"):
        architecture("edm2-img512-z")


def test_load_denoiser_takes_names_paths_and_addresses() -> None:
    assert erk_bench.load_denoiser("digits").img_resolution == 8
    assert erk_bench.load_denoiser(str(golden_path("c"))).img_channels == 3
    with pytest.raises(UserError, match="unknown model preset 'edm2-img512-s'"):
        erk_bench.load_denoiser("edm2-img512-s")
    with pytest.raises(UserError, match="is not in the cache, and offline=true.*erk-bench fetch"):
        erk_bench.load_denoiser("edm2-img512-s-fid")
    with pytest.raises(UserError, match="is not in the cache"):
        erk_bench.load_denoiser("https://example.org/net.pkl")


EDM1 = {
    "cifar10-32x32-cond-vp", "cifar10-32x32-cond-ve", "cifar10-32x32-uncond-vp", "cifar10-32x32-uncond-ve",
    "ffhq-64x64-uncond-vp", "ffhq-64x64-uncond-ve", "afhqv2-64x64-uncond-vp", "afhqv2-64x64-uncond-ve",
    "imagenet-64x64-cond-adm",
}  # fmt: skip
EDM1_STEPS = {"cifar10": 18, "ffhq": 40, "afhqv2": 40, "imagenet": 32}


def test_all_edm1_presets_are_there() -> None:
    assert {name for name in preset_files() if name.startswith("edm-")} == {f"edm-{name}" for name in EDM1}


@pytest.mark.parametrize("name", sorted(EDM1))
def test_edm1_preset_is_a_valid_run(name: str) -> None:
    """Its published file, statistics and steps, in float64 as EDM samples; the user's settings go first."""
    spec = run_spec([f"model=edm-{name}"], fetch=False)
    data = name.partition("-")[0]
    assert spec.model.weights.path == f"edm:pretrained/edm-{name}.pkl"
    assert architecture(f"edm-{name}") is not None
    assert spec.model.decoder == "rgb" and spec.guidance.name == "none"
    assert spec.schedule.num_steps == EDM1_STEPS[data]
    if data != "imagenet":
        assert re.fullmatch(rf"edm:fid-refs/{data}-\d\dx\d\d\.npz", spec.metrics.reference)
        assert spec.dtype == "float64" and spec.seeds == "0-49999"
    few = run_spec([f"model=edm-{name}", "schedule.num_steps=7"], fetch=False)
    assert few.schedule.num_steps == 7
    assert run_spec([f"model=edm-{name}", "solver=deis"], fetch=False).schedule.name == "time_uniform"


@pytest.mark.slow
def test_sizes_of_all_networks_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What the README's table of assets quotes."""
    runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "asset_sizes.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert all(name in printed for name in SIZES)
    assert re.search(r"edm2-img512-s  +280\.2 M parameters +560 MB", printed)
    assert re.search(r"edm-imagenet-64x64-cond-adm +295\.9 M parameters +1184 MB", printed)
