"""Published files of diffusion transformers: which weights they hold, and what network these make."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.weight_files import StateDicts, read_state_dicts
from erk_bench.networks.families import FAMILIES, FlowFamily
from erk_bench.networks.flow_facts import FACTS
from erk_bench.networks.positions import grid_embedding, rotary_tables
from erk_bench.networks.sizes import JIT_START, SIZES, WIDTHS

# The weights to use, where a file has several: averages before those that were trained.
KEYS = ("model_ema1", "ema", "model_ema2", "model_ema", "ema_state_dict", "state_dict", "model", "")
# What no file tells, of published sizes: by hidden_size and depth.
HEADS = {(width, depth): heads for width, depth, heads in WIDTHS.values()}
CONTEXT_START = {WIDTHS[size][:2]: start for size, start in JIT_START.items()}
PREFIXES = ("module.", "net.")
COMPILED = "_orig_mod."  # what torch.compile puts into names
TABLE = "y_embedder.embedding_table.weight"
# What tells each feature, beside a plain transformer's parts.
WITNESSES = {
    "bottleneck": "x_embedder.proj1.weight",
    "in_context": "in_context_posemb",
    "swiglu": "blocks.0.mlp.w12.weight",
    "rms_norm": "blocks.0.norm1.weight",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "rope": "feat_rope.freqs_cos",
    "projectors": "projectors.0.0.weight",
}


def known_facts(weights: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset's settings of weights say of their network: its architecture, and facts by name."""
    size = SIZES.get(str(weights.get("architecture")))
    both = {**(size.arguments if size else {}), **weights}
    return {name: both[name] for name in FACTS if name in both}


def needs_family(names: Sequence[str]) -> UserError:
    """The error for what is said of a file without its family."""
    return UserError(
        f"{', '.join(names)} belong to the file of a family; add family=NAME, one of: {', '.join(FAMILIES)}"
    )


class FlowWeights(NamedTuple):
    """The constructor arguments of a DiffusionTransformer, and its state dict."""

    init: dict[str, Any]
    tensors: dict[str, Tensor]


def read_flow(path: Path, family: str, facts: Mapping[str, Any], key: str | None = None) -> FlowWeights:
    """The network in a published file of a family; nothing in the file is run.

    facts: what is known of the network, of FACTS: what the file does not tell must be among them, and the
    rest must agree with it. key: which of a file's state dictionaries, "" for the file itself; None is the
    first of KEYS that is there. Raises UserError for whatever does not fit.
    """
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    for name in facts:
        if name not in FACTS:
            raise unknown_name(f"fact of a {FAMILIES[family].title} network", name, FACTS)
    tensors = _canonical(path, _chosen(path, read_state_dicts(path), key))
    init = _FlowReader(path, family, tensors, facts).init()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("projectors.")}
    side = init["img_resolution"] // init["patch_size"]
    tensors.setdefault("pos_embed", grid_embedding(side, init["hidden_size"])[None])
    if init["rope"]:
        tables = rotary_tables(side, init["hidden_size"] // init["num_heads"])
        for name, table in zip(("freqs_cos", "freqs_sin"), tables, strict=True):
            tensors.setdefault(f"feat_rope.{name}", table)
    return FlowWeights(init, tensors)


def _chosen(path: Path, found: StateDicts, key: str | None) -> dict[str, Tensor]:
    """The state dictionary under the key; says which, where there are several and none was asked for."""
    if not found:
        raise UserError(f"'{path}' holds no named tensors; give the file that its training program wrote")
    if key is None and len(found) == 1:
        (key,) = found
    elif key is None:
        key = next((known for known in KEYS if known in found), None)
        listed = ", ".join(repr(name) for name in found)
        if key is None:
            raise UserError(f"'{path}' holds several sets of tensors: {listed}; say which: key=NAME")
        print(f"note: '{path}' holds {listed}; '{key}' is used, key=NAME takes another", file=sys.stderr)
    if key not in found:
        raise unknown_name(f"key of '{path}'", key, found)
    return found[key]


def _canonical(path: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that today's programs give them."""
    tensors = {name.replace(COMPILED, ""): tensor for name, tensor in found.items()}
    while tensors and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), "")):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    first = _depth(tensors)  # REPA once called the blocks after its encoder decoder_blocks
    later = re.compile(r"decoder_blocks\.(\d{1,4})\.")

    def today(name: str) -> str:
        return later.sub(lambda match: f"blocks.{int(match[1]) + first}.", name)

    renamed = {today(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(found):
        raise UserError(f"'{path}' has tensors of the same name once prefixes are left out; get it again")
    return renamed


def _depth(tensors: Mapping[str, Tensor]) -> int:
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
    return max(numbers, default=-1) + 1


class _FlowReader:
    """Reads a network's constructor arguments off names and shapes."""

    def __init__(
        self, path: Path, family: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        self.path, self.name, self.tensors, self.facts = path, family, tensors, facts
        self.family: FlowFamily = FAMILIES[family]

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """The shape of a tensor that every network of the family has."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.ndim != ndim:
            here = "has no" if tensor is None else f"has {list(tensor.shape)} as"
            examples = ", ".join(list(self.tensors)[:4])
            raise UserError(
                f"'{self.path}' {here} tensor '{name}', so it is no {self.family.title} network; it has "
                f"{len(self.tensors)} tensors: {examples}, .... Known families: {', '.join(FAMILIES)}"
            )
        return tuple(tensor.shape)

    def features(self) -> set[str]:
        """Those that the network has. Raises UserError where the family has others."""
        found = {feature for feature, name in WITNESSES.items() if name in self.tensors}
        rows, width = self.shape("blocks.0.adaLN_modulation.1.weight", 2)
        if rows == 4 * width:
            found.add("no_shift")
        for feature in sorted(found - self.family.features):
            what = WITNESSES.get(feature, "modulations without shift")
            self._of_others(f"has {what}, which", "do not have", found)
        for feature in sorted(self.family.required - found - {"rope"}):
            self._of_others(f"has no {WITNESSES[feature]}, which", "have", found)
        return found

    def _of_others(self, what: str, do: str, found: set[str]) -> None:
        fitting = [name for name, row in FAMILIES.items() if row.required - {"rope"} <= found <= row.features]
        fits = f"; it fits family {' or '.join(fitting)}" if fitting else ""
        raise UserError(f"'{self.path}' {what} {self.family.title} networks {do}{fits}")

    def init(self) -> dict[str, Any]:
        found = self.features()
        bottleneck = 0
        if "bottleneck" in found:
            bottleneck, channels, patch, _ = self.shape("x_embedder.proj1.weight", 4)
            width = self.shape("x_embedder.proj2.weight", 4)[0]
        else:
            width, channels, patch, _ = self.shape("x_embedder.proj.weight", 4)
        depth = _depth(self.tensors)
        rows = self.shape(TABLE, 2)[0]
        first = WITNESSES["swiglu"] if "swiglu" in found else "blocks.0.mlp.fc1.weight"
        hidden = self.shape(first, 2)[0]
        outputs = self.shape("final_layer.linear.weight", 2)[0]
        factor = outputs / (patch**2 * channels)
        if factor not in (1, 2):
            raise UserError(
                f"'{self.path}' makes {outputs} numbers of {patch} x {patch} x {channels} in a patch; "
                "expected as many, or twice as many with learned variances"
            )
        init: dict[str, Any] = {
            "family": self.name,
            "img_channels": channels,
            "patch_size": patch,
            "hidden_size": width,
            "depth": depth,
            "mlp_hidden": hidden // 2 if "swiglu" in found else hidden,
            "output_factor": int(factor),
            "rms_norm": "rms_norm" in found,
            "swiglu": "swiglu" in found,
            "shift": "no_shift" not in found,
            "bottleneck": bottleneck,
            "keep_variances": self.family.keep_variances,
        }
        if "qk_norm" in found:
            init["qk_norm"] = "layer" if "blocks.0.attn.q_norm.bias" in self.tensors else "rms"
        if "in_context" in found:
            init["in_context_tokens"] = self.shape("in_context_posemb", 3)[1]
        for name, value in init.items():
            self._agree(name, value)
        init["rope"] = self.told("rope", self._rope(found))
        init["num_classes"] = self.facts.get("num_classes", rows - 1)
        init["null_class"] = init["num_classes"] == rows - 1
        if init["num_classes"] not in (rows - 1, rows):
            self._agree("num_classes", rows - 1)
        size = width, depth
        init["img_resolution"] = self.told("img_resolution", self._resolution(patch))
        init["num_heads"] = self.told("num_heads", self._heads(width), HEADS.get(size))
        if "in_context" in found:
            init["in_context_start"] = self.told("in_context_start", None, CONTEXT_START.get(size))
        usual = 2.0 if self.name == "jit" and init["img_resolution"] == 512 else 1.0
        init["noise_scale"] = float(self.facts.get("noise_scale", usual))
        self._check(init)
        return init

    def told(self, name: str, read: Any, usual: Any = None) -> Any:
        """A fact as the file tells it, else as it was given, else as it is usual."""
        if read is not None:
            self._agree(name, read)
            return read
        value = self.facts.get(name, usual)
        if value is None:
            raise UserError(
                f"'{self.path}' does not tell {name} of its {self.family.title} network; give it by name: "
                f"{name}=" + ("True or False" if name == "rope" else "NUMBER")
            )
        return value

    def _agree(self, name: str, read: Any) -> None:
        if name in self.facts and self.facts[name] != read:
            raise UserError(
                f"{name} is {self.facts[name]!r}, but the network in '{self.path}' has {read}{self._alike()}"
                "; leave it out (a preset: model.weights.architecture=null), or give the file that you mean"
            )

    def _alike(self) -> str:
        """The published sizes that the file looks like."""
        first = WITNESSES["bottleneck"]
        first = first if first in self.tensors else "x_embedder.proj.weight"
        seen = self.name, self.shape(TABLE, 2)[1], _depth(self.tensors), self.shape(first, 4)[-1]
        keys = "family", "hidden_size", "depth", "patch_size"
        fitting = [name for name, row in SIZES.items() if seen == tuple(map(row.arguments.get, keys))]
        return f", like {' and '.join(fitting)}" if fitting else ""

    def _rope(self, found: set[str]) -> bool | None:
        if "rope" in found or "rope" not in self.family.features:
            return "rope" in found
        if "rope" in self.family.required:
            return True
        # A file of parameters alone lacks the tables, and nothing else tells. A whole state has them.
        if "rope" in self.facts or not any("norm1" in name or "w12" in name for name in self.tensors):
            return self.facts.get("rope", False)
        if "pos_embed" not in self.tensors:
            return None
        print(
            f"note: '{self.path}' has no rotary tables, so the network is taken to turn nothing; rope=True "
            "computes them",
            file=sys.stderr,
        )
        return False

    def _resolution(self, patch: int) -> int | None:
        if "pos_embed" not in self.tensors:
            return None
        tokens = self.shape("pos_embed", 3)[1]
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise UserError(f"'{self.path}' has {tokens} positions, which are no square of patches")
        return side * patch

    def _heads(self, width: int) -> int | None:
        for name in (WITNESSES["qk_norm"], WITNESSES["rope"]):
            if name in self.tensors:
                return width // max(1, self.tensors[name].shape[-1])
        return None

    def _check(self, init: Mapping[str, Any]) -> None:
        """Refuse numbers that no network of this file can have."""
        allowed: dict[str, Callable[[int], bool]] = {
            "num_heads": lambda n: n > 0 and init["hidden_size"] % n == 0,
            "img_resolution": lambda n: n > 0 and n % init["patch_size"] == 0,
            "in_context_start": lambda n: 0 <= n < init["depth"],
        }
        wanted = {
            "num_heads": f"a divisor of hidden_size {init['hidden_size']}",
            "img_resolution": f"a multiple of patch_size {init['patch_size']}",
            "in_context_start": f"0 to {init['depth'] - 1}",
        }
        for name, holds in allowed.items():
            value = init.get(name, init["depth"] and 0 if name == "in_context_start" else None)
            if type(value) is not int or not holds(value):
                raise UserError(f"{name} is {value!r}; for '{self.path}' it must be {wanted[name]}")
        if not (math.isfinite(init["noise_scale"]) and init["noise_scale"] > 0):
            raise UserError(f"noise_scale is {init['noise_scale']:g}; it must be above 0 and finite")
