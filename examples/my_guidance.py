"""Classifier-free guidance that fades with the noise level: the whole weight in the middle, none at the ends.

erk-bench run guidance=my_guidance.py:bell guidance.weight=2 schedule.num_steps=8
erk-bench run guidance=my_guidance.py:bell guidance.weight=2 guidance.width=0.5 schedule.num_steps=8
"""

import torch


def bell(x, sigma, main, guide, weight, *, centre=0.5, width=1.0):
    """The guided prediction of the denoised image, of x's shape, from those of the main and guiding network.

    sigma is a number, or [B, 1, 1, 1] where a solver gives each sample its own.
    """
    level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    share = torch.exp(-0.5 * (torch.log(level / centre) / width) ** 2)
    return main + share * (weight - 1) * (main - guide)
