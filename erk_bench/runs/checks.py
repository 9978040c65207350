"""What a run's settings mean together: every name in its table, and every combination that works."""

from __future__ import annotations

from pathlib import Path

import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.files import check_path
from erk_bench.evaluation.detectors import detector_of
from erk_bench.evaluation.metrics import METRICS, Metric, detectors_of, parts_of
from erk_bench.evaluation.reference import REFERENCES
from erk_bench.networks.decoders import BY_CHANNELS, DECODERS
from erk_bench.networks.sizes import architecture
from erk_bench.networks.transformer import DiffusionTransformer
from erk_bench.runs.converged import check_converged, check_no_set
from erk_bench.runs.equation import equation_of
from erk_bench.runs.loaded import Shape, decoder_row, network_architecture, network_shape, shape_of
from erk_bench.runs.numerics import check_numerics
from erk_bench.sampling.options import defaults_of
from erk_bench.spec import MetricsSpec, RunSpec, SetSpec, Spec

CPU = torch.device("cpu")


def check_task(spec: Spec) -> None:
    """What can be refused of a spec, before any work, from its settings alone."""
    if isinstance(spec, RunSpec):
        check_names(spec)
    else:
        check_out(spec.out)
        check_measuring(spec.metrics)
        check_no_set(spec.metrics)


def check_out(out: str) -> None:
    """Refuse a folder of all runs that cannot be."""
    if not out:
        raise UserError("out is empty; name a folder, for example out=results/runs")
    check_path("out", Path(out).expanduser())


def check_measuring(metrics: MetricsSpec) -> None:
    """Refuse what no table has, of the settings that runs and sets share."""
    if metrics.reference not in REFERENCES and not Path(metrics.reference).suffix:
        raise unknown_name("reference", metrics.reference, [*REFERENCES, "FILE.pkl, .npz, .safetensors"])
    detectors_of(metrics.names)


def check_names(spec: RunSpec) -> None:
    """Refuse a spec that names what no table has, or what cannot work together, before any work.

    No code of a user's own is run.
    """
    check_out(spec.out)
    check_measuring(spec.metrics)
    own_decoder = spec.model.decoder_path is not None
    if not own_decoder and spec.model.decoder not in (BY_CHANNELS, *DECODERS):
        raise unknown_name("decoder", spec.model.decoder, [*DECODERS, "FILE.py:NAME"])
    check_numerics(spec)
    equation = equation_of(spec, imported=False)
    own = {**defaults_of(equation.solver.row), **equation.solver.options}
    latents = spec.model.decoder in DECODERS and DECODERS[spec.model.decoder].factor > 1
    if own.get("thresholding") and own.get("predict") == "denoised" and latents:
        raise UserError(
            f"solver '{spec.solver.name}' thresholds denoised images to [-1, 1], and model "
            f"'{spec.model.name}' works on latents; add solver.thresholding=false"
        )
    if own.get("batch_rule"):
        raise UserError(
            f"solver '{spec.solver.name}' with batch_rule=true decides for a whole batch, and a sample of a "
            "run depends on its seed alone; set solver.batch_rule=false, or call erk_bench.sample"
        )
    check_converged(spec)


def check_networks(spec: RunSpec, assets: Assets) -> None:
    """Refuse networks that do not fit each other, the decoder or the class label, from their sizes alone."""
    check_shapes(spec, *(network_shape(item, assets) for item in spec.networks))
    weights = spec.model.weights
    if spec.coordinates == "native" and not weights.own_code:
        found = network_architecture(weights, assets).class_name
        if found != DiffusionTransformer.__name__:
            raise UserError(
                f"coordinates=native needs a flow model, and model '{spec.model.name}' is EDM's: leave "
                "coordinates out, or take a model of a family (docs/models.md)"
            )


def check_images(spec: RunSpec, assets: Assets) -> int:
    """Refuse metrics whose detectors do not take the model's images; returns the side of an image.

    A preset says what its network is: its word counts, whatever file lies in the place of the published one.
    """
    published = spec.model.weights.architecture
    shape = shape_of(architecture(published)) if published else network_shape(spec.model.weights, assets)
    decoder = decoder_row(spec.model, shape, CPU)
    resolution = shape.resolution * decoder.factor

    def fits(metric: Metric) -> bool:
        row = detector_of(metric.detector)
        return decoder.image_channels in row.channels and row.resolution in (None, resolution)

    for name in spec.metrics.names:
        row = next((detector_of(each.detector) for each in parts_of(name) if not fits(each)), None)
        if row is None:
            continue
        fitting = [other for other in METRICS if all(map(fits, parts_of(other)))]
        side = "any size" if row.resolution is None else f"{row.resolution}x{row.resolution} pixels"
        raise UserError(
            f"metric '{name}' takes images of {' or '.join(map(str, row.channels))} channels and {side}, and "
            f"model '{spec.model.name}' makes {decoder.image_channels} and {resolution}x{resolution} pixels; "
            f"set metrics.names to some of: {', '.join(fitting) or 'none fits'}"
        )
    return resolution


def check_set(spec: SetSpec) -> int:
    """Refuse metrics whose detectors do not take the set's images; returns their shorter side."""
    for name in spec.metrics.names:
        for metric in parts_of(name):
            side = detector_of(metric.detector).resolution
            if side is None or (spec.height, spec.width) == (side, side):
                continue
            raise UserError(
                f"metric '{name}' takes images of {side}x{side} pixels, and '{spec.images}' has "
                f"{spec.width}x{spec.height}; choose other metrics, or resize with resolution={side}"
            )
    return min(spec.height, spec.width)


def check_shapes(spec: RunSpec, main: Shape, guide: Shape | None = None) -> None:
    """Refuse networks of these shapes that do not fit each other, the decoder or the class label."""
    channels = decoder_row(spec.model, main, CPU).channels
    if main.channels != channels:
        fitting = [name for name, row in DECODERS.items() if row.channels == main.channels]
        raise UserError(
            f"decoder '{spec.model.decoder}' takes {channels} channels, the model has {main.channels}; "
            f"set model.decoder to the model's own{': ' if fitting else ''}{' or '.join(fitting)}"
        )
    if guide is not None and main[:2] != guide[:2]:
        raise UserError(
            f"main and guiding network differ in (channels, resolution): {main[:2]} and {guide[:2]}; give "
            "networks of the same images"
        )
    if spec.guidance.null_class and spec.guidance.needs_guide and not main.num_classes:
        raise UserError(
            "model.unconditional is 'same', but the model knows no classes; use guidance=none, or give it a "
            "network"
        )
    if spec.class_label is not None and not 0 <= spec.class_label < main.num_classes:
        raise UserError(
            f"class_label is {spec.class_label}; this model has labels 0 to {main.num_classes - 1}"
            if main.num_classes
            else "class_label is set but the model is unconditional; use class_label=null"
        )
