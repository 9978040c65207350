"""What a solver is: one function making one step from sigma down to sigma_next, and facts about it.

What an embedded scheme offers for free, two points with their slopes, travels in the Step for a correction
to use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from erk_bench.sampling.options import Allowed


class Slope(Protocol):
    """dx/dsigma [B, C, H, W] at points x [B, C, H, W] of noise level sigma, by one network evaluation each.

    rows: int64 [n], which samples of the batch x [n, C, H, W] holds; None is all of them. sigma may then be a
    tensor [n], a level for each.
    """

    def __call__(self, x: Tensor, sigma: float | Tensor, rows: Tensor | None = None) -> Tensor: ...


class Node(NamedTuple):
    """A point on (or near) the trajectory, dx/dsigma there (both NCHW), and its noise level."""

    x: Tensor
    slope: Tensor
    sigma: float

    @property
    def denoised(self) -> Tensor:
        """D(x; sigma), from the slope."""
        return self.x - self.sigma * self.slope


class Step(NamedTuple):
    """One step of a solver.

    x_next: the state at sigma_next, before any correction.
    node: the evaluation that the step started with.
    partner: the node that pairs with `node` for an error estimate; None where there is none yet.
    span: signed size of the step that a correction applies to: positive when it is subtracted.
    ahead: a node at sigma_next that the next step may use; None if this step made none.
    switched: bool [B], which samples have switched to another method, for the next step to know.
    """

    x_next: Tensor
    node: Node
    partner: Node | None
    span: float
    ahead: Node | None
    switched: Tensor | None = None

    def rows(self, rows: Tensor) -> Step:
        """The same step for some of its samples."""

        def of(node: Node | None) -> Node | None:
            return None if node is None else node._replace(x=node.x[rows], slope=node.slope[rows])

        return Step(
            self.x_next[rows],
            self.node._replace(x=self.node.x[rows], slope=self.node.slope[rows]),
            of(self.partner),
            self.span,
            of(self.ahead),
            None if self.switched is None else self.switched[rows],
        )


# step(slope, x, sigma, sigma_next, history, **options): history holds the last steps, the latest at its end.
# A keyword-only argument `levels` is given all noise levels of the run (without the final zero, see
# Solver.through_zero); the others are the user's options.
StepFunction = Callable[..., Step]


class Solver(NamedTuple):
    """A row of SOLVERS.

    order: a step's error falls as h^(order + 1), at default options with a full history; 0: not known.
    global_order: that of a whole run, where it is not min(order, 2): a first step of order 1 limits multistep
    solvers to 2. evaluations: network calls a step. plain: options with which it solves the ODE itself and
    nothing else, as its orders say. history: how many past steps it reads. paired: whether its steps carry
    the partner that a correction needs. options: what each option may be. schedule, rho: its published noise
    levels; to_zero: whether it is published with a last step to zero. through_zero: whether its function
    makes that step too, and then finds 0 at the end of `levels`; else it is Euler's. min_steps: fewest noise
    levels above zero. adaptive: whether each sample chooses its own steps, and so its own number of
    evaluations. contains_euler: whether a step's `ahead` is Euler's solution. knows_zero: whether its
    function steps to zero too where the slope is known there, as in a flow model's own coordinates. title: as
    tables call it, where that is not its name.
    """

    step: StepFunction
    order: int
    evaluations: int = 1
    global_order: int | None = None
    plain: Mapping[str, Any] = {}
    history: int = 0
    paired: bool = False
    options: Mapping[str, Allowed] = {}
    schedule: str = "polynomial"
    rho: float = 7.0
    to_zero: bool = False
    through_zero: bool = False
    min_steps: int = 2
    adaptive: bool = False
    contains_euler: bool = False
    knows_zero: bool = False
    title: str = ""

    @property
    def expected_order(self) -> int:
        """That of a whole run."""
        return min(self.order, 2) if self.global_order is None else self.global_order

    @property
    def function(self) -> StepFunction:
        """The step function."""
        return self.step
