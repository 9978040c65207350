"""`erk-bench export`: a run's images for other tools."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import Choice, PathText, option
from erk_bench.commands.settings import RUN


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `erk-bench export`."""

    format: str = option(Choice("png", "npz"), "a folder of PNG files, or guided-diffusion's .npz", "png")
    to: str | None = option(
        PathText("PATH"), "the folder or file to write; named after the run unless given", None
    )


def export(options: ExportOptions, settings: list[str]) -> int:
    from erk_bench.commands.compose import run_spec
    from erk_bench.runs.export import export as export_images

    count, path = export_images(run_spec(settings), options.format, options.to or "")
    print(f"{count} images: {path}")
    return 0


COMMAND = Command(
    name="export",
    summary="write a run's images as a PNG folder or a guided-diffusion .npz",
    run=export,
    options=ExportOptions,
    settings=RUN,
    examples="""\
  erk-bench export format=png to=digits-png seeds=0-99
  erk-bench export format=npz to=digits.npz""",
)
