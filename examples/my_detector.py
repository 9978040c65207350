"""A detector: random projections of the pixels, for images of any size and number of channels.

erk-bench run "metrics.names=[fd_digits,fd@my_detector.py:load,recall@my_detector.py:load:dim=16]"
erk-bench reference source=IMAGES resolution=64 detectors=my_detector.py:load to=my_reference.safetensors
"""

import torch

SIDE = 8  # that images are brought to


def load(device, *, dim=32):
    """Gives extract(images): uint8 [B, C, H, W] -> float features [B, dim].

    A detector with a file of weights is load(checkpoint, device): fd@my_detector.py:load:checkpoint=FILE.
    It may also give {"features": [B, D], "logits": [B, K]}, with load.num_logits = K below.
    """
    matrix = torch.randn(SIDE * SIDE, dim, generator=torch.Generator().manual_seed(0)).to(device)

    def extract(images):
        grey = images.to(device).float().mean(1, keepdim=True) / 255
        small = torch.nn.functional.interpolate(grey, size=(SIDE, SIDE), mode="area")
        return small.flatten(1) @ matrix / SIDE

    return extract


load.title = "projections"
