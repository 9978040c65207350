"""Model guidance: two denoisers become one."""

from __future__ import annotations

import bisect
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.transfers import to_device
from erk_bench.sampling.options import LEVELS, Allowed, Numbers

# denoiser(x, sigma, condition) -> denoised. The noise level is a number, or a tensor [B] where each sample
# has its own; condition [B, ...] says what is drawn (class numbers, say), None where there is nothing to say.
Denoiser = Callable[[Tensor, float | Tensor, Tensor | None], Tensor]

# combine(x, sigma, main, guide, weight, **options): the state, and two predictions of the denoised image.
Combine = Callable[..., Tensor]

Interval = tuple[float, float]
EVERYWHERE: Interval = (0.0, math.inf)

TINY = 1e-16  # keeps the square of a norm from being zero


def count_classes(net: object) -> int:
    """How many classes a network knows, by its num_classes or label_dim. Raises UserError for neither."""
    found = getattr(net, "num_classes", getattr(net, "label_dim", None))
    if not isinstance(found, int):
        raise UserError(
            f"a network of class {type(net).__name__} tells no number of classes; give it an attribute "
            "num_classes (0: none)"
        )
    return found


def under_null_class(net: Denoiser) -> Denoiser:
    """The same network under its null class, whatever class is asked for.

    The null class is number num_classes, or an all-zero row, as the condition is given.
    """

    def denoiser(x: Tensor, sigma: float | Tensor, condition: Tensor | None) -> Tensor:
        if condition is None:
            return net(x, sigma, None)
        null = count_classes(net) if condition.ndim == 1 and not condition.is_floating_point() else 0
        return net(x, sigma, torch.full_like(condition, null))

    return denoiser


def _within(
    interval: Interval,
    main: Denoiser,
    guiding: Denoiser,
    combine: Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor],
) -> Denoiser:
    """combine(x, main's, guiding's, sigma) for sigma in (low, high], the main denoiser alone elsewhere.

    Guidance interval: arXiv 2404.07724. Outside, the guiding denoiser is not evaluated.
    """
    low, high = interval

    def denoiser(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        denoised = main(x, sigma, labels)
        if isinstance(sigma, Tensor) and sigma.ndim:
            if interval != EVERYWHERE:
                rows = ((low < sigma) & (sigma <= high)).nonzero()[:, 0]
                if not len(rows):
                    return denoised
                other = guiding(x[rows], sigma[rows], None if labels is None else labels[rows])
                return denoised.index_copy(0, rows, combine(x[rows], denoised[rows], other, sigma[rows]))
        elif not low < sigma <= high:
            return denoised
        return combine(x, denoised, guiding(x, sigma, labels), sigma)

    return denoiser


def guided(main: Denoiser, guiding: Denoiser, weight: float, interval: Interval = EVERYWHERE) -> Denoiser:
    """D = D_g + weight (D_m - D_g) for sigma in (low, high], the main denoiser alone elsewhere.

    Classifier-free guidance when `guiding` is unconditional (arXiv 2207.12598), autoguidance when it is a
    weaker network (arXiv 2406.02507). Where the weight is 1 the guiding denoiser is not evaluated.
    """
    if weight == 1:
        return main
    return _within(
        interval, main, guiding, lambda x, denoised, other, sigma: torch.lerp(other, denoised, weight)
    )


def _plain(
    main: Denoiser, guiding: Denoiser, weight: float, interval: Interval, levels: Sequence[float]
) -> Denoiser:
    return guided(main, guiding, weight, interval)


def cfgpp(
    main: Denoiser, guiding: Denoiser, weight: float, interval: Interval, levels: Sequence[float]
) -> Denoiser:
    """CFG++ (arXiv 2406.08070): noise is added back with the guiding denoiser's noise, weight 0 to 1.

    With D = D_g + weight (D_m - D_g), its DDIM step x_next = D + (s_next / s) (x - D_g) is Euler's with
    classifier-free guidance of weight * s / (s - s_next). That is the weight here for sigma in (s_next, s],
    for each pair of neighbouring levels; at the last level and below (the step to zero) it is `weight`.
    Solvers other than Euler's get the same schedule of weights, which is no longer the published update.
    """
    ascending = sorted(levels)
    factors = [1.0, *(high / (high - low) for low, high in itertools.pairwise(ascending))]

    @functools.cache
    def on(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        both = (torch.tensor(values, dtype=dtype) for values in (ascending, factors))
        levels, weights = (to_device(values, device) for values in both)
        return levels, weights

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        if isinstance(sigma, Tensor) and sigma.ndim:
            known, factor = on(sigma.dtype, sigma.device)
            index = torch.bucketize(sigma, known).clamp(max=len(factors) - 1)
            weights = weight * factor[index]
            return torch.lerp(other, denoised, weights.reshape(-1, *[1] * (denoised.ndim - 1)))
        # Churn raises sigma above the first level.
        index_of = min(bisect.bisect_left(ascending, float(sigma)), len(factors) - 1)
        return torch.lerp(other, denoised, weight * factors[index_of])

    return _within(interval, main, guiding, combine)


def apg(
    main: Denoiser,
    guiding: Denoiser,
    weight: float,
    interval: Interval,
    levels: Sequence[float],
    *,
    eta: float = 0.0,
    norm_threshold: float = 0.0,
    momentum: float = 0.0,
) -> Denoiser:
    """Adaptive projected guidance (arXiv 2410.02416): D_m + (weight - 1) (orthogonal + eta * parallel).

    The parts are those of the update D_m - D_g, orthogonal and parallel to D_m. Before, the update gains
    momentum * that of the last evaluation, and is shortened to norm_threshold where it is longer (0: never).
    Norms and products are per sample over (C, H, W). With eta 1 alone this is classifier-free guidance. With
    momentum, the denoiser is good for one trajectory of one batch.
    """
    if weight == 1:
        return main
    last: Tensor | None = None

    def combine(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        nonlocal last
        over = tuple(range(1, denoised.ndim))
        update = denoised - other
        if momentum:
            update = update if last is None else update + momentum * last
            last = update
        if norm_threshold:
            norm = torch.linalg.vector_norm(update, dim=over, keepdim=True)
            update = update * (norm_threshold / norm).clamp(max=1)
        square = (denoised * denoised).sum(dim=over, keepdim=True)
        share = (update * denoised).sum(dim=over, keepdim=True) / square.clamp(min=TINY)
        return denoised + (weight - 1) * (update + (eta - 1) * share * denoised)

    return _within(interval, main, guiding, combine)


def combining(combine: Combine) -> Guidance:
    """The row of a function combine(x, sigma, main, guide, weight, **options) -> denoised, all NCHW.

    Its options are keyword-only arguments with defaults. sigma is a number, or [B, 1, 1, 1] where each sample
    has its own. An argument `levels` is given the run's noise levels. Weight 1 does not switch it off.
    """
    wants_levels = LEVELS in inspect.signature(combine).parameters

    @functools.wraps(combine)
    def make(
        main: Denoiser,
        guiding: Denoiser,
        weight: float,
        interval: Interval,
        levels: Sequence[float],
        **options: Any,
    ) -> Denoiser:
        own = {**options, LEVELS: tuple(levels)} if wants_levels else options

        def both(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
            level = sigma.reshape(-1, 1, 1, 1) if isinstance(sigma, Tensor) and sigma.ndim else sigma
            return combine(x, level, denoised, other, weight, **own)

        return _within(interval, main, guiding, both)

    return Guidance("unconditional", make, off_at_one=False)


class Guidance(NamedTuple):
    """A row of GUIDANCES.

    role: which of a model's guiding networks it takes. make(main, guiding, weight, interval, levels,
    **options) is the guided denoiser of a run at these noise levels (decreasing, above zero). weights,
    options: what its weight and its own options may be. off_at_one: whether weight 1 is the main denoiser
    alone (spec.ACTS_AT_ONE lists those where it is not).
    """

    role: str | None
    make: Callable[..., Denoiser]
    weights: Numbers = Numbers()
    options: Mapping[str, Allowed] = {}
    off_at_one: bool = True

    @property
    def function(self) -> Callable[..., Denoiser]:
        """The function that makes the guided denoiser."""
        return self.make

    def active(self, weight: float) -> bool:
        """Whether it guides at this weight, and so needs the guiding network."""
        return weight != 1 or not self.off_at_one

    def check_weight(self, name: str, weight: float) -> None:
        """Refuse a weight that this guidance, called `name`, does not take."""
        if not self.weights.holds(weight):
            raise UserError(
                f"guidance.weight is {weight:g}; with guidance '{name}' it must be {self.weights}"
            )


def keeps_state(options: Mapping[str, float]) -> bool:
    """Whether a guidance with these options depends on earlier evaluations of the same batch."""
    return options.get("momentum", 0.0) != 0


# Model guidance by name.
GUIDANCES: dict[str, Guidance] = {
    "none": Guidance(None, _plain, weights=Numbers(1, 1)),
    "cfg": Guidance("unconditional", _plain),
    "autoguidance": Guidance("weaker", _plain),
    "cfgpp": Guidance("unconditional", cfgpp, weights=Numbers(0, 1), off_at_one=False),
    "apg": Guidance(
        "unconditional", apg,
        options={"eta": Numbers(0, 1), "norm_threshold": Numbers(0), "momentum": Numbers(-1, 1)},
    ),
}  # fmt: skip
