"""A network of a user's own: `load()` or `load(checkpoint)` gives a denoiser. See docs/plugins.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erk_bench.base.declared import declared
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import CodePlace, check_signature, checked, described, place_of
from erk_bench.base.own_code import load as load_code
from erk_bench.base.transfers import number_on
from erk_bench.networks.denoiser import class_numbers

CHECKPOINT = "checkpoint"  # the setting, and the argument of the function
# Attributes of a network, and their least values.
FACTS = {"img_channels": 1, "img_resolution": 1, "num_classes": 0}
EXPECTED = (
    f"a network net(x, sigma, condition) with attributes {', '.join(FACTS)}, as in examples/my_model.py"
)


class OwnDenoiser:
    """A user's network as a `Denoiser`; what it returns is checked, and its errors are told in one line.

    It is given x float32 NCHW, sigma float32, a scalar or [B, 1, 1, 1], and class numbers int64 [B] (the null
    class is num_classes), or None.
    """

    def __init__(self, network: Any, place: CodePlace) -> None:
        self.network = network
        self.img_channels = int(network.img_channels)
        self.img_resolution = int(network.img_resolution)
        self.num_classes = int(network.num_classes)
        self.guided_channels: int | None = getattr(network, "guided_channels", None)
        self.native_rules = getattr(network, "native_rules", None)  # of a flow model (see flow.FlowModel)
        self.native_slope: Callable[..., Tensor] | None = getattr(network, "native_slope", None)
        self._denoise = checked(
            lambda x, sigma, condition: network(x, sigma, condition),
            CodePlace(f"the network of {place.name}", place.file),
            "the denoised images, float of x's shape and device",
            _result_problem,
        )

    @property
    def label_dim(self) -> int:
        """num_classes, as EDM's programs call it."""
        return self.num_classes

    def __call__(self, x: Tensor, sigma: Tensor | float, condition: Tensor | None = None) -> Tensor:
        x = x.float()
        level = number_on(sigma, torch.float32, x.device)
        level = level.reshape(-1, 1, 1, 1) if level.ndim else level
        known = condition is not None and self.num_classes
        classes = class_numbers(condition, self.num_classes) if condition is not None and known else None
        denoised: Tensor = self._denoise(x, level, classes).float()
        return denoised


def _result_problem(made: object, arguments: tuple[Any, ...]) -> str:
    x = arguments[0]
    like = isinstance(made, Tensor) and made.is_floating_point()
    same = isinstance(made, Tensor) and (made.shape, made.device) == (x.shape, x.device)
    return "" if like and same else f"{described(made)} for x, {described(x)}"


def _network_problem(made: object, _: object) -> str:
    if not callable(made):
        return f"a {type(made).__name__}"
    for name, least in FACTS.items():
        value = getattr(made, name, None)
        if value is None:
            return f"a network without {name}"
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            return f"a network whose {name} is {value!r}, not a whole number of {least} or more"
    return ""


def _signature(checkpoint: object) -> tuple[str, tuple[str, ...]]:
    """What errors call the kind, and the arguments that it takes."""
    return (f"model without {CHECKPOINT}=FILE", ()) if checkpoint is None else ("model", (CHECKPOINT,))


def declared_options(
    address: str, given: Mapping[str, object], checkpoint: object, setting: str
) -> dict[str, Any]:
    """The given options that differ from the defaults in the text of the file; nothing is imported.

    Where the text does not tell the defaults, every given option counts. Raises UserError for others than
    there are, and for values of another type.
    """
    place = place_of(address, setting)
    known = declared(place.file, place.name, *_signature(checkpoint)).options
    found = {}
    for name, value in sorted(given.items()):
        if known is None:
            found[name] = value
            continue
        if name not in known:
            raise unknown_name(f"option of {place.name} in '{place.file}'", name, known)
        default = known[name]
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise UserError(
                f"option '{name}' of {place.name} is {value!r}; expected {type(default).__name__}, as "
                f"{default!r} is"
            )
        if value != default:
            found[name] = value
    return found


def load_own(
    address: str,
    sha256: str,
    device: torch.device,
    *,
    checkpoint: Path | None = None,
    options: Mapping[str, Any] | None = None,
    setting: str = "model.path",
) -> OwnDenoiser:
    """The network of FILE.py:NAME, whose file must still have that hash, tried on one batch.

    A torch module is moved to the device and turned to inference; other networks follow the device of x.
    Raises UserError, in one line, for whatever is wrong.
    """
    place = place_of(address, setting)
    function = load_code(address, sha256, setting)
    if not callable(function):
        raise UserError(
            f"{setting} names '{address}', which is {type(function).__name__}; expected a function"
        )
    kind, arguments = _signature(checkpoint)
    check_signature(kind, function, place, arguments)
    make = checked(function, place, EXPECTED, _network_problem)
    network = make(*([] if checkpoint is None else [checkpoint]), **(options or {}))
    if isinstance(network, nn.Module):
        network = network.to(device).eval().requires_grad_(False)
    found = OwnDenoiser(network, place)
    side = found.img_resolution
    with torch.inference_mode():
        x = torch.zeros(2, found.img_channels, side, side, device=device)
        found(x, 1.0, torch.zeros(2, dtype=torch.int64, device=device) if found.num_classes else None)
    return found
