"""How a run computes: the precision of convolutions and products, attention, compilation, the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from erk_bench.base.errors import UserError
from erk_bench.spec import RunSpec, Spec


class Numerics(NamedTuple):
    """A row of NUMERICS; docs/method.md explains them.

    says: the row in words. tf32_convolutions, tf32_products: whether a GPU computes float32 convolutions and
    matrix products of networks, decoder and detectors in TF32. published_attention: by products, as the
    published programs sample; else fused. compiled: networks are compiled where there is a GPU. vae_dtype,
    vae_batch: of the VAE decoder, which decodes at most so many images at once.
    """

    says: str
    tf32_convolutions: bool = False
    tf32_products: bool = False
    published_attention: bool = False
    compiled: bool = False
    vae_dtype: torch.dtype = torch.float32
    vae_batch: int = 8


NUMERICS: dict[str, Numerics] = {
    "strict": Numerics("no TF32, fused attention, VAE in float32"),
    "published": Numerics(
        "TF32 in convolutions, attention by products, VAE in float32",
        tf32_convolutions=True,
        published_attention=True,
        vae_batch=32,
    ),
    "fast": Numerics(
        "TF32 everywhere, fused attention, VAE in bfloat16, compiled networks",
        tf32_convolutions=True,
        tf32_products=True,
        compiled=True,
        vae_dtype=torch.bfloat16,
        vae_batch=32,
    ),
}
STRICT = NUMERICS["strict"]


def numerics_of(spec: Spec) -> Numerics:
    """Of a run as its spec says; sets of images and references are strict."""
    return NUMERICS[spec.numerics] if isinstance(spec, RunSpec) else STRICT


def compiles(spec: RunSpec, device: torch.device) -> bool:
    """Whether the networks are compiled on this device."""
    return spec.compile or (numerics_of(spec).compiled and device.type == "cuda")


def switch(numerics: Numerics) -> None:
    """Set torch's switches for the whole process; they act on GPUs only."""
    torch.backends.cudnn.allow_tf32 = numerics.tf32_convolutions
    torch.backends.cuda.matmul.allow_tf32 = numerics.tf32_products


@contextmanager
def arithmetic(spec: Spec) -> Iterator[None]:
    """The spec's switches inside the block, and those of before after it.

    Networks and detectors are kept for the next run of the process, which may compute otherwise.
    """
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    switch(numerics_of(spec))
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def check_numerics(spec: RunSpec) -> None:
    """Refuse settings that contradict the spec's numerics, or that code of a user's own decides."""
    own = any(item.own_code for item in spec.networks)
    if own and (spec.network_dtype != "float32" or spec.compile or spec.numerics != "strict"):
        raise UserError(
            "network_dtype, compile and numerics are for checkpoints, and a network of your own decides that "
            "itself; use network_dtype=float32 compile=false numerics=strict"
        )
    if spec.numerics == "published" and spec.compile:
        raise UserError(
            "compile=true does not go with numerics=published: the published programs do not compile, and "
            "compiled networks round otherwise; use numerics=fast, or numerics=strict compile=true"
        )
    if spec.numerics == "published" and spec.network_dtype == "bfloat16":
        raise UserError(
            "network_dtype=bfloat16 does not go with numerics=published: the published programs sample in "
            "float16 or float32; choose one of them, or numerics=fast or strict"
        )
    if spec.numerics == "fast" and spec.model.decoder_path is not None:
        raise UserError(
            f"numerics=fast chooses the decoder's dtype, and '{spec.model.decoder_path}' is code of your "
            "own, which decides that itself; use numerics=strict or published"
        )
