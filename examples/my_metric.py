"""A metric: the energy distance between generated and real features (Szekely and Rizzo 2013).

erk-bench run "metrics.names=[fd_digits,my_metric.py:energy@digits]"
erk-bench run "metrics.names=[fd_digits,my_metric.py:energy:power=0.5@digits]"
"""

import torch


def energy(features, real_features, *, power=1.0):
    """A number from float32 features [N, D] and [M, D], here 2 E|x - y|^p - E|x - x'|^p - E|y - y'|^p.

    It is called for all images, and once without each of metrics.num_groups groups of them.
    """

    def mean_distance(a, b):
        return torch.cdist(a, b).pow(power).mean()

    between = mean_distance(features, real_features)
    return 2 * between - mean_distance(features, features) - mean_distance(real_features, real_features)


energy.title = "energy distance"
energy.lower = True  # lower values are better
