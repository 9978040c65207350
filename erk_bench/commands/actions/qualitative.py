"""`erk-bench qualitative`: pictures of a diffusers pipeline with and without ERK-Guid, side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.extras import need
from erk_bench.base.files import write_atomic
from erk_bench.commands.qualitative import QualitativeOptions
from erk_bench.runs.device import set_up_device

GAP, HEAD = 6, 22  # pixels between pictures, and above them for a line of text
CROP, ZOOM = 4, 4  # a crop has 1/CROP of the side, and is enlarged by ZOOM
AMPLIFIED = 4  # of the difference


class Pipeline(NamedTuple):
    """A row of PIPELINES. about: its name on the hub. classes: of ImageNet, in place of texts. guidance: the
    default weight of diffusers' pipeline."""

    about: str
    classes: bool
    guidance: float


PIPELINES = {
    "pixart_alpha": Pipeline("PixArt-alpha/PixArt-XL-2-512x512", classes=False, guidance=4.5),
    "dit_xl_2_512": Pipeline("facebook/DiT-XL-2-512", classes=True, guidance=4.0),
}


class Pair(NamedTuple):
    """One picture drawn twice, uint8 [H, W, 3], and what it was drawn of."""

    title: str
    baseline: np.ndarray
    guided: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """|guided - baseline|, amplified, uint8."""
        apart = np.abs(self.guided.astype(np.int16) - self.baseline.astype(np.int16))
        return (apart * AMPLIFIED).clip(0, 255).astype(np.uint8)

    @property
    def crop(self) -> tuple[slice, slice]:
        """Rows and columns of the square in which the two differ most."""
        apart = np.abs(self.guided.astype(np.float64) - self.baseline.astype(np.float64)).sum(axis=2)
        side = max(1, min(apart.shape) // CROP)
        total = np.pad(apart.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
        top, left = (int(each) for each in np.unravel_index(sums.argmax(), sums.shape))
        return slice(top, top + side), slice(left, left + side)


def qualitative(options: QualitativeOptions) -> int:
    """Draw every prompt (or class) with every seed twice; write the sheet as PNG and HTML."""
    row = PIPELINES.get(options.model)
    source = row.about if row else options.model
    if row is None and not (Path(source).expanduser() / "model_index.json").is_file():
        raise unknown_name("model", options.model, [*PIPELINES, "a folder with model_index.json"])
    steps, w_stiff, w_con = options.steps, options.w_stiff, options.w_con
    subjects = _subjects(options, row)
    guidance = options.guidance
    if guidance is None:
        guidance = row.guidance if row else 4.0
    device = set_up_device(options.device, 0)
    pipe = _load(source, device)
    pairs = []
    for subject in subjects:
        for seed in options.seeds:
            settings = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
            settings |= {"class_labels": [int(subject)]} if options.classes else {"prompt": subject}
            two = []
            for strength in (0.0, w_stiff):
                pipe.scheduler = _scheduler(options.solver, pipe.scheduler.config, strength, w_con)
                generator = torch.Generator().manual_seed(seed)
                image = np.asarray(pipe(**settings, generator=generator).images[0])
                two.append((image * 255).round().clip(0, 255).astype(np.uint8))
            pairs.append(Pair(f"{subject}, seed {seed}", *two))
    to = Path(options.to).expanduser()
    name = f"qualitative-{Path(source).name}-{options.solver}{steps}"
    about = (
        f"{Path(source).name}: {options.solver}, steps {steps}, w_stiff {w_stiff:g}, w_con {w_con:g}, "
        f"guidance {guidance:g}"
    )
    write_atomic(to / f"{name}.png", _png(sheet(about, pairs)))
    write_atomic(to / f"{name}.html", page(about, pairs).encode())
    print(f"{len(pairs)} pairs: {to / name}.png and .html")
    return 0


def _subjects(options: QualitativeOptions, row: Pipeline | None) -> list[str]:
    """The prompts, or the numbers of classes."""
    given = [name for name in ("prompts", "classes") if getattr(options, name)]
    wanted = None if row is None else "classes" if row.classes else "prompts"
    if len(given) != 1 or wanted not in (None, given[0]):
        raise UserError(
            f"give {wanted or 'either prompts or classes'} for model '{options.model}': prompts='a text' "
            "or prompts=FILE.txt (one a line), classes=207,360"
        )
    if options.prompts is None:
        return [str(number) for number in options.classes or ()]
    file = Path(options.prompts).expanduser()
    if file.suffix != ".txt":
        return [options.prompts]
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read prompts from '{file}': {error}") from error
    if not lines:
        raise UserError(f"'{file}' has no prompts; write one a line")
    return lines


def _load(source: str, device: torch.device) -> Any:
    """The pipeline, from its folder or from the hub's cache or network."""
    diffusers = need("diffusers", "qualitative")  # slow to import
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(source, use_safetensors=True)
    except ImportError as error:
        raise UserError(f"'{source}' needs more packages ({error}); pip install 'erk-bench[text]'") from error
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"cannot load the pipeline '{source}': {error}. Give a folder with model_index.json and "
            "safetensors, or connect to the network"
        ) from error
    pipe.set_progress_bar_config(desc=source)
    return pipe.to(device)


def _scheduler(solver: str, config: Any, w_stiff: float, w_con: float) -> Any:
    from erk_bench import diffusers as ours  # slow

    make = ours.ERKGuidDPMSolverScheduler if solver == "dpm2" else ours.ERKGuidHeunScheduler
    return make.from_config(config, w_stiff=w_stiff, w_con=w_con)


def _columns(pair: Pair) -> list[tuple[str, np.ndarray]]:
    """Titles and pictures of a row."""
    return [
        ("baseline", pair.baseline),
        ("ERK-Guid", pair.guided),
        (f"difference x{AMPLIFIED}", pair.difference),
        ("crop, baseline", _enlarged(pair.baseline[pair.crop], pair.baseline.shape[0])),
        ("crop, ERK-Guid", _enlarged(pair.guided[pair.crop], pair.guided.shape[0])),
    ]


def _enlarged(image: np.ndarray, height: int) -> np.ndarray:
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))


def sheet(about: str, pairs: Sequence[Pair]) -> Image.Image:
    """All rows below one another, each with its subject above."""
    rows = [_columns(pair) for pair in pairs]
    width = max(sum(image.shape[1] + GAP for _, image in row) + GAP for row in rows)
    height = HEAD + sum(row[0][1].shape[0] + HEAD + GAP for row in rows)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 4), about, fill="black")
    top = HEAD
    for pair, row in zip(pairs, rows, strict=True):
        left = GAP
        for number_, (title, image) in enumerate(row):
            draw.text((left, top + 4), f"{title}: {pair.title}" if number_ == 0 else title, fill="black")
            canvas.paste(Image.fromarray(image), (left, top + HEAD))
            left += image.shape[1] + GAP
        top += row[0][1].shape[0] + HEAD + GAP
    return canvas


def page(about: str, pairs: Sequence[Pair]) -> str:
    """One file of HTML with the pictures in it."""
    body = ""
    for pair in pairs:
        cells = "".join(
            f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,'
            f'{base64.b64encode(_png(Image.fromarray(image))).decode()}">'
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
            for title, image in _columns(pair)
        )
        body += f"<h2>{html.escape(pair.title)}</h2><div>{cells}</div>\n"
    style = "body{font-family:sans-serif}div{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(about)}</title>'
        f"<style>{style}</style><h1>{html.escape(about)}</h1>\n{body}</html>\n"
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
