"""Folders that diffusers wrote: denoised is what diffusers' own model computes; bad folders are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.networks.diffusers_network import betas_of, process_of
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.runs.cost import estimate
from erk_bench.runs.loaded import Shape, decoder
from erk_bench.runs.needs import addresses_of
from erk_bench.runs.records import read_record
from tests.assets import write_vae

BLOCKS = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def make_dit(**changes: Any) -> Any:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 4}
    settings = {"in_channels": 4, "out_channels": 8, "patch_size": 2, "num_embeds_ada_norm": 10}
    return randomized(diffusers.DiTTransformer2DModel(**{**sizes, **settings, **changes}))


def make_unet(**changes: Any) -> Any:
    settings = {"sample_size": 8, "in_channels": 1, "out_channels": 1, **BLOCKS}
    return randomized(diffusers.UNet2DModel(**{**settings, **changes}))


def randomized(network: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        value.data.normal_(0, 0.1, generator=generator)
    return network.eval()


def write(folder: Path, network: Any, scheduler: Any = None, safe: bool = True) -> Path:
    """A pipeline's folder, as its save_pretrained lays it out."""
    component = "transformer" if "Transformer" in type(network).__name__ else "unet"
    network.save_pretrained(folder / component, safe_serialization=safe)
    (scheduler or diffusers.DDIMScheduler()).save_pretrained(folder / "scheduler")
    return folder


def load(folder: Path) -> FlowDenoiser:
    net = erk_bench.load_denoiser(f"diffusers:{folder}")
    assert isinstance(net, FlowDenoiser)
    return net


def own_denoised(network: Any, scheduler: Any, x_t: Tensor, t: int, classes: Tensor | None) -> Tensor:
    """The denoised image by diffusers' model, and by its scheduler's formula in words of alpha and beta."""
    kept = scheduler.alphas_cumprod[t].item()
    with torch.no_grad():
        output = network(x_t, torch.full((len(x_t),), t), class_labels=classes).sample[:, : x_t.shape[1]]
    scheduler.set_timesteps(len(scheduler.alphas_cumprod))
    own: Tensor = scheduler.step(output, t, x_t).pred_original_sample
    by_hand = {
        "epsilon": (x_t - (1 - kept) ** 0.5 * output) / kept**0.5,
        "v_prediction": kept**0.5 * x_t - (1 - kept) ** 0.5 * output,
        "sample": output,
    }[scheduler.config.prediction_type]
    torch.testing.assert_close(own, by_hand, rtol=1e-4, atol=1e-4)
    return own


NET, STEPS = "transformer/config.json", "scheduler/scheduler_config.json"
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["dit", "unet", "plain unet", "unet with variances"])
def test_denoised_is_diffusers(kind: str, prediction: str, tmp_path: Path) -> None:
    if kind == "dit":
        network = make_dit()
    elif "variances" in kind:
        network = make_unet(in_channels=3, out_channels=6)
    else:
        network = make_unet(num_class_embeds=None if "plain" in kind else 10)
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False)
    net = load(write(tmp_path, network, scheduler))
    x_t = torch.randn(3, net.img_channels, net.img_resolution, net.img_resolution)
    classes = torch.tensor([1, 2, 10 if kind == "dit" else 9]) if net.num_classes else None
    for t in (0, 1, 437, 999):
        kept = scheduler.alphas_cumprod.double()[t].item()
        sigma = ((1 - kept) / kept) ** 0.5
        expected = own_denoised(network, scheduler, x_t, t, classes)
        with torch.inference_mode():
            found = net(x_t * (1 + sigma**2) ** 0.5, sigma, classes)
            # Each sample on its own, with a noise level for each.
            one = net(
                x_t[1:2] * (1 + sigma**2) ** 0.5,
                torch.tensor([sigma]),
                None if classes is None else classes[1:2],
            )
        assert (found - expected).abs().max() <= 2e-4 * expected.abs().max(), t
        assert (found[1:2] - one).abs().max() <= 1e-5 * expected.abs().max()
    assert found.dtype == torch.float32
    if kind == "dit":  # no condition is the null class
        null = torch.full((3,), 10)
        assert torch.equal(net(x_t, 1.0), net(x_t, 1.0, null))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_levels_are_the_schedulers(schedule: str, zero_snr: bool) -> None:
    for num_times in (1000, 50):
        arguments = {"beta_schedule": schedule, "num_train_timesteps": num_times, "beta_end": 0.03}
        if schedule == "sigmoid" and zero_snr:
            continue  # DDIMScheduler has no sigmoid
        kind = diffusers.DDPMScheduler if schedule == "sigmoid" else diffusers.DDIMScheduler
        scheduler = kind(**arguments, rescale_betas_zero_snr=zero_snr)
        kept = scheduler.alphas_cumprod.double()
        expected = ((1 - kept) / kept).sqrt()
        levels = process_of({"_class_name": "DDIMScheduler", **scheduler.config}).levels
        assert levels is not None and levels.dtype == torch.float64
        usual = len(levels) - 20  # float32 loses the last of a cosine's
        torch.testing.assert_close(levels[:usual], expected[:usual], rtol=1e-3, atol=1e-5)


def test_listed_betas_are_taken_as_they_are() -> None:
    betas = [0.01, 0.02, 0.05]
    assert betas_of({"trained_betas": betas}, 3).tolist() == betas


def test_flow_matching(tmp_path: Path) -> None:
    network = make_unet(num_class_embeds=10)
    net = load(write(tmp_path, network, diffusers.FlowMatchEulerDiscreteScheduler()))
    x_t, classes, u = torch.randn(2, 1, 8, 8), torch.tensor([3, 9]), 0.4
    with torch.no_grad():
        velocity = network(x_t, torch.full((2,), 1000 * u), class_labels=classes).sample
        found = net(x_t / (1 - u), u / (1 - u), classes)
    assert (found - (x_t - u * velocity)).abs().max() < 1e-4


def test_pickled_weights_are_read_by_the_closed_reader(tmp_path: Path) -> None:
    network = make_dit()
    nets = load(write(tmp_path / "safe", network)), load(write(tmp_path / "bin", network, safe=False))
    assert not list((tmp_path / "bin").rglob("*.safetensors"))
    x = torch.randn(1, 4, 4, 4)
    assert torch.equal(nets[0](x, 2.0), nets[1](x, 2.0))
    torch.save({"a": make_unet}, tmp_path / "bin/transformer/diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="Nothing was run"):
        load(tmp_path / "bin")


def test_older_names_of_dit_and_of_attention(tmp_path: Path) -> None:
    """The hub's DiT is of the class Transformer2DModel; UNets of 2022 name attention otherwise."""
    write(tmp_path / "dit", make_dit())
    config = tmp_path / "dit/transformer/config.json"
    content = json.loads(config.read_text()) | {
        "_class_name": "Transformer2DModel",
        "cross_attention_dim": None,
    }
    config.write_text(json.dumps(content))
    assert load(tmp_path / "dit").num_classes == 10
    write(tmp_path / "unet", make_unet())
    from safetensors.torch import load_file, save_file

    file = tmp_path / "unet/unet/diffusion_pytorch_model.safetensors"
    expected = load(tmp_path / "unet")(torch.ones(1, 1, 8, 8), 1.0)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(file)
    for new, before in old.items():
        tensors = {name.replace(new, before): tensor for name, tensor in tensors.items()}
    assert any(".query." in name for name in tensors)
    save_file(tensors, file)
    assert torch.equal(load(tmp_path / "unet")(torch.ones(1, 1, 8, 8), 1.0), expected)


def test_every_file_of_the_folder_is_in_the_identity(tmp_path: Path) -> None:
    words = [f"model=diffusers:{write(tmp_path, make_dit())}"]
    spec = run_spec(words)
    assert {Path(path).name for path in addresses_of(spec, features=False)} == {
        "config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json",
    }  # fmt: skip
    assert spec.model.name == tmp_path.name
    shutil.copytree(tmp_path, tmp_path / "same")
    same = run_spec([f"model=diffusers:{tmp_path / 'same'}", f"model.name={tmp_path.name}"])
    assert same.run_id == spec.run_id
    for name, scheduler in (("a", diffusers.DDIMScheduler(beta_end=0.03)), ("b", None)):
        write(tmp_path / name, make_dit(num_layers=2 if scheduler else 1), scheduler)
        other = run_spec([f"model=diffusers:{tmp_path / name}", f"model.name={tmp_path.name}"])
        assert other.run_id != spec.run_id


def test_null_class_and_latents_are_chosen_with_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "dit", make_dit())
    guided = run_spec([f"model=diffusers:{folder}", "guidance=cfg", "guidance.weight=1.5"])
    assert guided.guidance.null_class and guided.model.vae is None
    own = write_vae(tmp_path / "own", levels=4)
    words = [f"model=diffusers:{folder}", f"model.vae.path={own / 'diffusion_pytorch_model.safetensors'}"]
    assert run_spec(words).model.decoder == "sd_vae_dit"
    write_vae(folder / "vae", levels=4)
    latent = run_spec([f"model=diffusers:{folder}"])
    assert latent.model.decoder == "sd_vae_dit" and latent.model.vae is not None
    unet = write(tmp_path / "unet", make_unet(num_class_embeds=10))
    with pytest.raises(UserError, match="has no 'unconditional' network"):
        run_spec([f"model=diffusers:{unet}", "guidance=cfg", "guidance.weight=1.5"])
    guided = run_spec(
        [f"model=diffusers:{unet}", "model.num_classes=9", "guidance=cfg", "guidance.weight=1.5"]
    )
    assert guided.guidance.null_class and dict(guided.model.weights.options) == {"num_classes": 9}


def test_latents_are_decoded_as_diffusers_decodes(tmp_path: Path) -> None:
    folder = write(tmp_path, make_dit())
    write_vae(folder / "vae", levels=4)
    changed(folder, "vae/config.json", scaling_factor=0.5, shift_factor=0.1)
    vae: Any = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    x = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = (vae.decode(x / 0.5 + 0.1).sample / 2 + 0.5).clamp(0, 1) * 255
    model = run_spec([f"model=diffusers:{folder}"]).model
    images = decoder(model, Shape(4, 2, 10), torch.device("cpu"), Assets.from_environment())(x)
    assert (images.float() - expected).abs().max() <= 0.5001 and images.shape == (2, 3, 16, 16)


@pytest.mark.slow
def test_from_folder_to_score(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", make_unet(num_class_embeds=10))
    words = [
        "run", f"model=diffusers:{folder}", "seeds=0-7", "block_size=4", "schedule.num_steps=2", "workers=1",
        "metrics.num_groups=4", "metrics.names=[fd_digits]", f"out={tmp_path / 'runs'}",
    ]  # fmt: skip
    assert main(words) == 0
    (path,) = (tmp_path / "runs").glob("*/records/*.json")
    record = read_record(path)
    assert record.metrics["fd_digits"].value > 0 and record.num_images == 8
    assert record.spec["model"]["weights"]["scheduler"]["sha256"]


def test_the_hubs_files_are_known_by_address() -> None:
    spec = run_spec(["model=diffusers:facebook/DiT-XL-2-256", "guidance=none"], fetch=False)
    addresses = addresses_of(spec, features=False)
    assert "huggingface:facebook/DiT-XL-2-256/resolve/main/transformer/config.json" in addresses
    pinned = run_spec(["model=diffusers:google/ddpm-cifar10-32@267b167"], fetch=False)
    assert all("resolve/267b167/" in item.path for item in pinned.weights)
    with pytest.raises(UserError, match="no folder 'owner/name' is here, and of the hub's model: .*offline"):
        run_spec(["model=diffusers:owner/name", "offline=true"])


def changed(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (NET, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel, which takes text"),
        (NET, {"_class_name": "SD3Transformer2DModel", "joint_attention_dim": 8}, "takes text"),
        (NET, {"_class_name": "PixArtTransformer2DModel", "caption_channels": 8}, "takes text"),
        (NET, {"_class_name": "Transformer2DModel", "norm_type": "layer_norm"}, "is not served"),
        (NET, {"_class_name": "os.system"}, "is not served; served are DiT"),
        (NET, {"out_channels": 5}, "4 in_channels and 5 out_channels"),
        (NET, {"sample_size": -1}, "sample_size -1"),
        (NET, {"num_embeds_ada_norm": "ten"}, "classes 'ten'"),
        (NET, {"num_layers": 3}, "does not fit DiffusersNetwork: tensor"),
        (NET, {"num_layers": 10**9}, "num_layers is 1000000000"),
        (NET, {"num_attention_heads": 3}, "does not fit|cannot build"),
        (STEPS, {"_class_name": "EDMEulerScheduler", "timestep_type": "continuous"}, "no table of betas"),
        (STEPS, {"prediction_type": "flow"}, "prediction_type is 'flow'"),
        (STEPS, {"beta_schedule": "mine"}, "beta_schedule is 'mine'"),
        (STEPS, {"num_train_timesteps": 10**9}, "num_train_timesteps is"),
        (STEPS, {"beta_start": 0, "beta_end": 0}, "no rising noise levels"),
        (STEPS, {"trained_betas": ["a"]}, "cannot use"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(file: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, make_dit())
    changed(folder, file, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder '/no/such' is not here; give one that save_pretrained"):
        run_spec(["model=diffusers:/no/such"])
    for lost, message in (
        ("transformer/config.json", "has no network's settings .transformer/config.json, unet/config.json"),
        ("transformer/diffusion_pytorch_model.safetensors", "has no weights"),
        ("scheduler/scheduler_config.json", "has no scheduler's settings"),
    ):
        folder = write(tmp_path / lost.replace("/", "_"), make_dit())
        (folder / lost).unlink()
        with pytest.raises(UserError, match=message):
            run_spec([f"model=diffusers:{folder}"])
    folder = write(tmp_path / "parts", make_dit())
    (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="are in several files"):
        run_spec([f"model=diffusers:{folder}"])
    folder = write(tmp_path / "words", make_dit())
    with pytest.raises(UserError, match="unknown setting of model.weights 'depth'"):
        run_spec([f"model=diffusers:{folder}", "model.depth=2"])
    for number in (9, 11):
        with pytest.raises(UserError, match=f"num_classes is {number}"):
            run_spec([f"model=diffusers:{folder}", f"model.num_classes={number}"])
    (folder / "transformer/config.json").write_text("[]")
    with pytest.raises(UserError, match="names no _class_name"):
        run_spec([f"model=diffusers:{folder}"])
    assert not Assets.from_environment().cache.exists()


def test_a_unet_of_any_side_is_told_its_side(tmp_path: Path) -> None:
    folder = write(tmp_path, make_unet(sample_size=None))
    with pytest.raises(UserError, match=r"add model.img_resolution=NUMBER"):
        run_spec([f"model=diffusers:{folder}"])
    spec = run_spec([f"model=diffusers:{folder}", "model.img_resolution=8"])
    cost = estimate(spec)
    assert cost.image_bytes == 64 and cost.network_flops > 0
