"""Where published files come from, and the addresses of files that this package or another one ships."""

from __future__ import annotations

from typing import NamedTuple

PACKAGE = "package:"  # package:digits/weights/denoiser.safetensors
INSTALLED = "installed:"  # installed:PACKAGE/PATH, of a package that an extra brings


class Source(NamedTuple):
    """Where published files come from. url: base address, replaced by ERK_BENCH_MIRROR_NAME if set."""

    url: str
    licence: str


SOURCES: dict[str, Source] = {
    "edm2": Source("https://nvlabs-fi-cdn.nvidia.com/edm2", "CC BY-NC-SA 4.0"),
    "edm": Source("https://nvlabs-fi-cdn.nvidia.com/edm", "CC BY-NC-SA 4.0"),
    "huggingface": Source("https://huggingface.co", "MIT (sd-vae-ft-mse); encoders: see their pages"),
    "torch_fidelity": Source(
        "https://github.com/toshas/torch-fidelity/releases/download", "Apache-2.0 (Inception weights)"
    ),
    "pytorch": Source("https://download.pytorch.org/models", "BSD-3-Clause (VGG-16 weights)"),
    "dit": Source("https://dl.fbaipublicfiles.com/DiT/models", "CC BY-NC 4.0"),
    # These projects hand files out behind links that change (see docs/models.md): set a mirror, or the path.
    "sit": Source("https://github.com/willisma/SiT/releases/download", "MIT"),
    "repa": Source("https://github.com/sihyun-yu/REPA/releases/download", "MIT"),
    "jit": Source("https://github.com/LTH14/JiT/releases/download", "MIT"),
    "adm": Source(
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches",
        "MIT (guided-diffusion); its images: ImageNet's terms",
    ),
    "dinov2": Source("https://dl.fbaipublicfiles.com/dinov2", "Apache-2.0"),
}
