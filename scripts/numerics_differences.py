"""How far the three `numerics` differ where a CPU can tell: attention by products, the VAE in bfloat16.

.venv/bin/python scripts/numerics_differences.py      # 2 minutes; prints the figures of docs/method.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from erk_bench.commands.compose import run_spec
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.vae import PUBLISHED_CONFIG, load_vae
from erk_bench.runs.device import Place
from erk_bench.runs.numerics import NUMERICS
from erk_bench.runs.sample_block import sample_block
from erk_bench.sampling.sample import draw

DATA = Path(__file__).parents[1] / "tests" / "data"
NETWORKS = ("edm2_a_latent_cond", "edm2_c_pixel_cond", "edm1_g_adm_multihead")


def attention(name: str, dtype: torch.dtype) -> float:
    """Largest difference of one evaluation, attention by products against fused, over the largest output."""
    checkpoint = read_checkpoint(DATA / f"{name}.pkl")
    nets = [build_denoiser(checkpoint, compute_dtype=dtype) for _ in range(2)]
    nets[1].network.use_published_attention()
    noise, labels = draw(range(8), nets[0])
    with torch.inference_mode():
        one, other = (net(2 * noise, 2.0, labels) for net in nets)
    return ((one - other).abs().max() / one.abs().max()).item()


def digits(name: str, count: int) -> tuple[float, int]:
    """Share of the bytes of so many digits that differ from strict, and by how many levels at most."""
    images = []
    for each in ("strict", name):
        spec = run_spec([f"numerics={each}", "device=cpu", "schedule.num_steps=8"])
        images.append(sample_block(spec, range(count), Place.of(spec)).host().images.int())
    difference = (images[0] - images[1]).abs()
    return (difference > 0).float().mean().item(), int(difference.max())


def vae() -> tuple[float, int]:
    """Levels by which images of random weights in bfloat16 differ from float32, mean and largest."""
    torch.manual_seed(0)
    weights = AutoencoderKL.from_config(PUBLISHED_CONFIG).state_dict()
    weights["decoder.conv_out.bias"] = torch.full((3,), 0.5)  # around mid-grey, so that few are clipped
    latents = torch.randn(2, 4, 8, 8) / 2
    with tempfile.TemporaryDirectory() as folder:
        config, file = Path(folder) / "config.json", Path(folder) / "vae.safetensors"
        config.write_text(json.dumps(PUBLISHED_CONFIG))
        save_file({key: value.contiguous() for key, value in weights.items()}, file)
        dtypes = (NUMERICS["strict"].vae_dtype, NUMERICS["fast"].vae_dtype)
        one, other = (load_vae(config, file, "cpu", dtype)(latents).int() for dtype in dtypes)
    difference = (one - other).abs()
    return difference.float().mean().item(), int(difference.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200, help="digits (200)")
    count = parser.parse_args().images
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = ", ".join(f"{name} {attention(name, dtype):.1e}" for name in NETWORKS)
        print(f"attention by products against fused, {dtype}: {found}", flush=True)
    for name in ("published", "fast"):
        share, most = digits(name, count)
        print(
            f"{count} digits, {name} against strict: {share:.2%} of bytes differ, by {most} at most",
            flush=True,
        )
    mean, most = vae()
    print(
        f"VAE of published size, random weights, bfloat16 against float32: {mean:.2f} levels, at most {most}"
    )


if __name__ == "__main__":
    main()
