"""The digits classifier as a feature extractor of torch-fidelity, to compare whole pipelines of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from erk_bench.base.assets import Assets
from erk_bench.base.errors import unknown_name
from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, detector_key, digits_network, grey_digits

NAME = "erk-bench-digits"
LAYERS = ("64", "logits")
DEFAULT_LAYERS = {"isc": "logits", "fid": "64", "kid": "64", "prc": "64"}


class DigitsFeatureExtractor(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity is untyped
    """Gray uint8 images [B, 1 or 3, 8, 8] -> float32 features '64' [B, 64] and 'logits' [B, 10]."""

    def __init__(self, name: str, features_list: Sequence[str], **_options: Any) -> None:
        # torch-fidelity hands every option of calculate_metrics to every extractor.
        super().__init__(name, list(features_list))
        self.network = digits_network(Assets.from_environment().locate(DIGITS_WEIGHTS))

    def get_name(self) -> str:
        """Name and key of the weights; torch-fidelity's cache must not mix features of different weights."""
        return f"{self.name}-{detector_key('digits', Assets.from_environment())}"

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return LAYERS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        if metric not in DEFAULT_LAYERS:
            raise unknown_name("metric of the digits features", metric, DEFAULT_LAYERS)
        return DEFAULT_LAYERS[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, in the order of their request."""
        features, logits = self.network(grey_digits(images, f"'{NAME}'"))
        found = {"64": features, "logits": logits}
        return tuple(found[layer] for layer in self.features_list)


def register() -> None:
    """Make the extractor known to torch-fidelity as 'erk-bench-digits'; calling twice does no harm."""
    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, DigitsFeatureExtractor)
