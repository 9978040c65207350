"""Checkpoint files: published EDM2 pickles, diffusion transformers, and the project's safetensors format.

A checkpoint is a class name, constructor arguments and named tensors; `build_denoiser` makes the network.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erk_bench.base.errors import UnknownNameError, UserError, unknown_name
from erk_bench.base.files import file_sha256
from erk_bench.base.pickles import Container, PersistentObject, load_pickle
from erk_bench.base.tensor_files import METADATA_KEY, TYPES, read_tensors, write_tensors
from erk_bench.networks import edm1, edm2
from erk_bench.networks.denoiser import EDMPreconditioned, RawNetwork
from erk_bench.networks.diffusers_network import DiffusersNetwork
from erk_bench.networks.families import FAMILIES
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.networks.flow_files import needs_family, read_flow
from erk_bench.networks.sizes import Architecture
from erk_bench.networks.transformer import DiffusionTransformer

FORMAT = "erk-bench checkpoint 1"

# Raw networks by the name that published checkpoints give their class.
NETWORKS: dict[str, type[RawNetwork]] = {
    "Precond": edm2.EDM2Network,
    "EDMPrecond": edm1.EDM1Network,
    "DiffusionTransformer": DiffusionTransformer,
    "DiffusersNetwork": DiffusersNetwork,
}
# Other classes of the same programs, and what they are.
NOT_SERVED = {
    "VPPrecond": "the VP preconditioning of Score SDE (a baseline of EDM)",
    "VEPrecond": "the VE preconditioning of Score SDE (a baseline of EDM)",
    "iDDPMPrecond": "the preconditioning of iDDPM and ADM (a baseline of EDM)",
    "SongUNet": "a raw DDPM++ or NCSN++ network without preconditioning",
    "DhariwalUNet": "a raw ADM network without preconditioning",
    "UNet": "a raw EDM2 network without preconditioning",
}
MAX_LENGTH = 64  # of a list among the constructor arguments


@dataclass(frozen=True)
class Checkpoint:
    """A network at rest.

    class_name: key of NETWORKS. init: constructor arguments. weights: state dict in stored dtypes.
    encoder: class name of the published image encoder, or "". source_sha256: of the original file.
    note: free text, for example a training record.
    """

    class_name: str
    init: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    source_sha256: str
    encoder: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.class_name in NOT_SERVED:
            raise UnknownNameError(
                f"network class '{self.class_name}' is {NOT_SERVED[self.class_name]}; its noise levels and "
                f"outputs differ from EDM's, and only {', '.join(NETWORKS)} are read. Give the file of the "
                "same data set with EDM's own preconditioning: EDM calls it edm-*.pkl (baseline-*.pkl are "
                "the others), and presets such as model=edm-cifar10-32x32-uncond-vp fetch it"
            )
        if self.class_name not in NETWORKS:
            raise unknown_name("network class", self.class_name, NETWORKS)
        known = NETWORKS[self.class_name].argument_names(self.init)
        for name in self.init:
            if name not in known:
                raise unknown_name(f"constructor argument of {self.class_name}", name, known)
            if not _is_plain(self.init[name]):
                raise UserError(
                    f"constructor argument '{name}' of {self.class_name} is of type "
                    f"{type(self.init[name]).__name__}; expected a number, a text, or at most {MAX_LENGTH} "
                    "of them"
                )

    @property
    def architecture(self) -> Architecture:
        """The network without its weights."""
        return Architecture(self.class_name, self.init)


def _is_plain(value: object) -> bool:
    """Whether a value is a number, a text, None, or a short list of such."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return len(items) <= MAX_LENGTH and all(
        item is None or isinstance(item, (bool, int, float, str)) for item in items
    )


def read_checkpoint(
    path: Path, family: str = "", facts: Mapping[str, Any] | None = None, key: str | None = None
) -> Checkpoint:
    """Read a published pickle (.pkl), one of our .safetensors files, or a file of weights; nothing is run.

    family, facts, key: of a file of weights alone (see flow_files.read_flow).
    """
    if path.is_dir():
        raise UserError(f"checkpoint '{path}' is a folder; give the file in it")
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist; check the path or the model's config")
    if family and not (path.suffix == ".safetensors" and read_tensors(path).metadata):
        init, weights = read_flow(path, family, facts or {}, key)
        checkpoint = Checkpoint("DiffusionTransformer", init, weights, source_sha256="")
    else:
        checkpoint = _read_safetensors(path) if path.suffix == ".safetensors" else _read_published(path)
        for name, value in {"family": family, **(facts or {})}.items() if family else ():
            if (there := checkpoint.init.get(name, value)) != value:
                raise UserError(
                    f"{name} is {value!r}, but the network in '{path}' has {there!r}; leave it out, or give "
                    "the file that you mean"
                )
    blocks = checkpoint.init.get("num_blocks", checkpoint.init.get("depth", 1))
    levels = checkpoint.init.get("channel_mult", ())
    num_levels = len(levels) if isinstance(levels, (list, tuple)) else 0
    # Building them could take for ever.
    if isinstance(blocks, int) and blocks * max(1, num_levels) > len(checkpoint.weights):
        raise UserError(
            f"cannot build {checkpoint.class_name} from '{path}': num_blocks={blocks} at {num_levels} "
            f"resolutions, but the file has {len(checkpoint.weights)} tensors; get the file again"
        )
    return checkpoint


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write our safetensors format, atomically."""
    meta = {
        "format": FORMAT,
        "class_name": checkpoint.class_name,
        "init": dict(checkpoint.init),
        "source_sha256": checkpoint.source_sha256,
        "encoder": checkpoint.encoder,
        "note": checkpoint.note,
    }
    write_tensors(path, checkpoint.weights, {METADATA_KEY: json.dumps(meta, sort_keys=True)})


def make_network(architecture: Architecture) -> RawNetwork:
    """An untrained network."""
    return NETWORKS[architecture.class_name](**architecture.arguments)


def denoiser_around(network: RawNetwork) -> EDMPreconditioned | FlowDenoiser:
    """The denoiser of a raw network."""
    if isinstance(network, (DiffusionTransformer, DiffusersNetwork)):
        return FlowDenoiser(network)
    return EDMPreconditioned(network)


def build_denoiser(
    checkpoint: Checkpoint,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype = torch.float32,
) -> EDMPreconditioned | FlowDenoiser:
    """The denoiser ready for inference: weights loaded, normalised once, no gradients.

    The network keeps no memory of the checkpoint, so that a file's memory goes with its Checkpoint.
    """
    network = _unfilled(checkpoint)
    # assign keeps the stored dtypes: float16 gains must stay so until they are folded in.
    network.load_state_dict(dict(checkpoint.weights), assign=True)
    # channels_last: the layout in which convolution kernels are fastest, on CPUs and GPUs alike.
    network.fold(compute_dtype, torch.channels_last)
    read = {tensor.untyped_storage().data_ptr() for tensor in checkpoint.weights.values()}
    for module in network.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.untyped_storage().data_ptr() in read:
                # Kernels also round differently for memory that a file left unaligned.
                copy = tensor.detach().clone()
                frozen = nn.Parameter(copy, requires_grad=False)
                setattr(module, name, frozen if isinstance(tensor, nn.Parameter) else copy)
    denoiser = denoiser_around(network).eval()
    return denoiser.to(device).to(memory_format=torch.channels_last)


def _unfilled(checkpoint: Checkpoint) -> RawNetwork:
    """The network without memory for its weights, once it is sure that the checkpoint's fit."""
    try:
        with torch.device("meta"):
            network = make_network(checkpoint.architecture)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise UserError(
            f"cannot build {checkpoint.class_name} from {dict(checkpoint.init)}: {error}"
        ) from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        name = wrong[0][0]
        raise UserError(
            f"checkpoint does not fit {checkpoint.class_name}: tensor '{name}' is "
            f"{found.get(name, 'missing')} in the file, {expected.get(name, 'unknown')} in the network "
            f"({len({key for key, _ in wrong})} tensors differ)"
        )
    for name, value in checkpoint.weights.items():
        if value.dtype not in TYPES:
            raise UserError(
                f"tensor '{name}' holds {value.dtype}; weights must be floating point of 16, 32 or 64 bits"
            )
    return network


def convert(
    source: Path,
    target: Path,
    family: str = "",
    facts: Mapping[str, Any] | None = None,
    key: str | None = None,
) -> Checkpoint:
    """Turn any readable checkpoint into our safetensors format, keeping the source's sha256.

    family, facts, key: as read_checkpoint takes them. Raises UserError where it cannot be read or built.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"'{target}' must end in .safetensors, the format that convert writes")
    if (facts or key is not None) and not family:
        raise needs_family([*(facts or {}), *(["key"] if key is not None else [])])
    checkpoint = read_checkpoint(source, family, facts, key)
    if not checkpoint.source_sha256:  # of gigabytes, of which loading needs a part
        checkpoint = replace(checkpoint, source_sha256=file_sha256(source))
    _unfilled(checkpoint)  # fail now rather than at the first run
    write_checkpoint(target, checkpoint)
    return checkpoint


def _read_safetensors(path: Path) -> Checkpoint:
    meta, weights = read_tensors(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(
            f"'{path}' has no erk-bench metadata (format '{FORMAT}'), so the network's constructor arguments "
            "are unknown; make it with 'erk-bench convert SOURCE TARGET.safetensors', or say whose weights "
            f"they are by family=NAME, one of: {', '.join(FAMILIES)}"
        )
    texts = [meta.get(key) for key in ("class_name", "source_sha256", "encoder", "note")]
    if not isinstance(meta.get("init"), dict) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"'{path}' has damaged erk-bench metadata; make it again with 'erk-bench convert'")
    class_name, source_sha256, encoder, note = map(str, texts)
    return Checkpoint(class_name, meta["init"], weights, source_sha256, encoder, note)


def _read_published(path: Path) -> Checkpoint:
    content = load_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("ema"), PersistentObject):
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"'{path}' holds no network under the key 'ema'; it holds: {keys}")
    network = content["ema"]
    encoder = content.get("encoder")
    return Checkpoint(
        class_name=network.class_name,
        init=_init_of(network),
        weights=dict(_named_tensors(network)),
        source_sha256=file_sha256(path),
        encoder=encoder.class_name if isinstance(encoder, PersistentObject) else "",
    )


def _init_of(network: PersistentObject) -> dict[str, Any]:
    """Constructor arguments by name, those that were given by position too."""
    args, init = network.state.get("_init_args", ()), network.init_kwargs
    names = list[str]()
    if network.class_name in NETWORKS:
        signature = inspect.signature(NETWORKS[network.class_name]).parameters.values()
        names = [item.name for item in signature if item.kind is item.POSITIONAL_OR_KEYWORD]
    if not isinstance(args, (list, tuple)) or len(args) > len(names) or set(names[: len(args)]) & set(init):
        raise UserError(
            f"the constructor arguments of {network.class_name} do not make sense: {len(args)} by position "
            f"(known: {', '.join(names)}) and by name {', '.join(init)}; get the file again"
        )
    return {**dict(zip(names, args, strict=False)), **init}


def _named_tensors(module: PersistentObject | Container, prefix: str = "") -> dict[str, Tensor]:
    """The state dict of a module tree: parameters, buffers, then children, as torch orders them."""
    tensors = {}
    for group in ("_parameters", "_buffers"):
        for name, value in module.state.get(group, {}).items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
    for name, child in module.state.get("_modules", {}).items():
        if isinstance(child, (PersistentObject, Container)):
            tensors |= _named_tensors(child, f"{prefix}{name}.")
    return tensors
