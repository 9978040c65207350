"""Two denoisers become one by a weight; what every guidance is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from erk_bench.base.errors import UserError

# denoiser(x, sigma, condition) -> denoised. The noise level is a number, or a tensor [B] where each sample
# has its own; condition [B, ...] says what is drawn (class numbers, say), None where there is nothing to say.
Denoiser = Callable[[Tensor, float | Tensor, Tensor | None], Tensor]

# combine(x, main, guide, sigma): the state, two predictions of the denoised image, the noise level.
Both = Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor]

Interval = tuple[float, float]
EVERYWHERE: Interval = (0.0, math.inf)

TINY = 1e-16  # keeps the square of a norm from being zero


def begin_step(denoiser: Denoiser, index: int) -> None:
    """Tell a denoiser with a method `begin_step` that the step of this number begins, from 0 on."""
    begin = getattr(denoiser, "begin_step", None)
    if begin is not None:
        begin(index)


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


def guided_only(main: Denoiser, guided: Tensor, alone: Tensor) -> Tensor:
    """The guided channels of `guided`, the others of `alone`.

    A network whose first channels alone are guided, as DiT's and SiT's programs do, has guided_channels.
    """
    count: int | None = getattr(main, "guided_channels", None)
    return guided if count is None else torch.cat([guided[:, :count], alone[:, count:]], dim=1)


def within(interval: Interval, main: Denoiser, guiding: Denoiser, combine: Both) -> Denoiser:
    """combine(x, main's, guiding's, sigma) for sigma in (low, high], the main denoiser alone elsewhere.

    Guidance interval: arXiv 2404.07724. Outside, the guiding denoiser is not evaluated.
    """
    low, high = interval
    count: int | None = getattr(main, "guided_channels", None)

    def combined(x: Tensor, denoised: Tensor, other: Tensor, sigma: float | Tensor) -> Tensor:
        if count is None:
            return combine(x, denoised, other, sigma)
        found = combine(x[:, :count], denoised[:, :count], other[:, :count], sigma)
        return guided_only(main, found, denoised)

    def denoiser(x: Tensor, sigma: float | Tensor, labels: Tensor | None) -> Tensor:
        denoised = main(x, sigma, labels)
        if isinstance(sigma, Tensor) and sigma.ndim:
            if interval != EVERYWHERE:
                rows = ((low < sigma) & (sigma <= high)).nonzero()[:, 0]
                if not len(rows):
                    return denoised
                other = guiding(x[rows], sigma[rows], None if labels is None else labels[rows])
                return denoised.index_copy(0, rows, combined(x[rows], denoised[rows], other, sigma[rows]))
        elif not low < sigma <= high:
            return denoised
        return combined(x, denoised, guiding(x, sigma, labels), sigma)

    return denoiser


def guided(main: Denoiser, guiding: Denoiser, weight: float, interval: Interval = EVERYWHERE) -> Denoiser:
    """D = D_g + weight (D_m - D_g) for sigma in (low, high], the main denoiser alone elsewhere.

    Classifier-free guidance when `guiding` is unconditional (arXiv 2207.12598), autoguidance when it is a
    weaker network (arXiv 2406.02507). Where the weight is 1 the guiding denoiser is not evaluated.
    """
    if weight == 1:
        return main
    return within(
        interval, main, guiding, lambda x, denoised, other, sigma: torch.lerp(other, denoised, weight)
    )


def plain(
    main: Denoiser, guiding: Denoiser, weight: float, interval: Interval, levels: Sequence[float]
) -> Denoiser:
    """`guided`, at any noise levels."""
    return guided(main, guiding, weight, interval)


def level_of(sigma: float | Tensor, x: Tensor) -> float | Tensor:
    """The noise level as a factor of states: a number, or [B, 1, 1, 1] where each sample has its own."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1)) if isinstance(sigma, Tensor) and sigma.ndim else sigma


def weighed(x: Tensor, denoised: Tensor, other: Tensor, weight: float | Tensor) -> Tensor:
    """D_g + weight (D_m - D_g); the weight is a number, or has one for each sample."""
    return torch.lerp(other, denoised, level_of(weight, x))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, [B, 1, 1, 1]."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each sample, [B, 1, 1, 1]."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)


def share_along(a: Tensor, b: Tensor) -> Tensor:
    """s of each sample, [B, 1, 1, 1], for which s b is the part of a along b."""
    return inner(a, b) / inner(b, b).clamp(min=TINY)
