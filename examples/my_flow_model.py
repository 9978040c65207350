"""A flow model of your own: the velocity of data that is a blurred mean digit, linear and known exactly.

erk-bench run model=my_flow_model.py:load model.decoder=digits coordinates=native schedule.num_steps=8
erk-bench run model=my_flow_model.py:load model.decoder=digits solver=heun schedule.num_steps=8
"""

import erk_bench
from erk_bench.digits.data import encode, load_digits


def load(*, spread=0.3):
    """The network. spread: standard deviation of the data around their mean."""
    mean = encode(load_digits().images).mean(dim=0)

    def velocity(x_t, t, classes):
        """dx_t/dt of x_t = t data + (1 - t) noise: the mean of data - noise, given x_t."""
        t = t.reshape(-1, 1, 1, 1)
        center = mean.to(x_t)
        share = (t * spread**2 - (1 - t)) / (t**2 * spread**2 + (1 - t) ** 2)
        return center + share * (x_t - t * center)

    return erk_bench.FlowModel(velocity, img_channels=1, img_resolution=8)
