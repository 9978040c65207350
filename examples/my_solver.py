"""Ralston's method: like Heun's, with the second slope at two thirds of the step.

erk-bench run solver=my_solver.py:step schedule.num_steps=8
erk-bench run solver=my_solver.py:step solver.share=0.5 schedule.num_steps=8
erk-bench run solver=my_solver.py:step schedule.num_steps=8 correction=erk_guid correction.w_stiff=0.75
"""

from erk_bench import Node, Step


def step(slope, x, sigma, sigma_next, history, *, share=2 / 3):
    """From sigma down to sigma_next. history: the earlier Steps, the latest last. share: an option."""
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    middle = x - share * h * node.slope
    second = Node(middle, slope(middle, sigma - share * h), sigma - share * h)
    x_next = x - h * ((1 - 0.5 / share) * node.slope + 0.5 / share * second.slope)
    # partner: a second point of the same step, on which ERK-Guid works; None where there is none.
    return Step(x_next, node, partner=second, span=h, ahead=None)
