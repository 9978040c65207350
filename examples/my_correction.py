"""A correction: take a share of the difference between Heun's and Euler's solution away, at every step.

erk-bench run correction=my_correction.py:shrink correction.w_stiff=0.2 schedule.num_steps=8
"""


def shrink(step, w_stiff, w_con):
    """The next state, of step.x_next's shape.

    step.ahead is Euler's solution of the step, None where a solver has none (the last step, to zero).
    """
    if step.ahead is None:
        return step.x_next
    return step.x_next - w_stiff * (step.x_next - step.ahead.x)
