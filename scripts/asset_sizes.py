"""Prints the parameters of every published network that the ImageNet track fetches, and the bytes they take.

Built from the architectures alone, on no device; 'erk-bench fetch' prints the sizes of the files themselves.
"""

from __future__ import annotations

import timm
import torch
from diffusers import AutoencoderKL

from erk_bench.evaluation.inception import empty_inception, empty_vgg16
from erk_bench.networks.checkpoint import make_network
from erk_bench.networks.sizes import SIZES

# The autoencoder of Stable Diffusion 1.x, as its config.json has it.
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def main() -> None:
    with torch.device("meta"):
        # EDM2's are stored as float16, EDM's as float32.
        networks = {
            name: (make_network(row), 4 if row.class_name == "EDMPrecond" else 2)
            for name, row in SIZES.items()
        }
        networks["VAE"] = (AutoencoderKL(**SD_VAE), 4)
        networks["Inception-v3"] = (empty_inception(), 4)
        networks["VGG-16"] = (empty_vgg16(), 4)
        networks["DINOv2 ViT-L/14"] = (timm.create_model("vit_large_patch14_dinov2.lvd142m"), 4)
    for name, (network, itemsize) in networks.items():
        count = sum(value.numel() for value in network.parameters())
        print(f"{name:28} {count / 1e6:8.1f} M parameters  {count * itemsize / 1e6:8.0f} MB")
    statistics = 8 * sum(dim * dim + dim for dim in (2048, 1024))  # of FID and FD-DINOv2, float64
    print(f"{'reference statistics':28} {statistics / 8e6:8.1f} M numbers     {statistics / 1e6:8.0f} MB")


if __name__ == "__main__":
    main()
