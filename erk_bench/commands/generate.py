"""`erk-bench generate`: the images of one run."""

from __future__ import annotations

from erk_bench.base.errors import UserError
from erk_bench.commands.command import Command
from erk_bench.commands.run import RunOptions, show_settings
from erk_bench.commands.settings import RUN


def generate(options: RunOptions, settings: list[str]) -> int:
    from erk_bench.commands.compose import run_spec
    from erk_bench.commands.tracking import refuse_tracker
    from erk_bench.runs import launch
    from erk_bench.runs.checks import check_networks
    from erk_bench.runs.device import assets_of
    from erk_bench.runs.export import finish_samples
    from erk_bench.runs.needs import fetch

    if options.cfg:
        return show_settings(settings)
    refuse_tracker(settings, "generate, evaluate and export do")
    spec = run_spec(settings)
    if spec.samples == "none":
        raise UserError(
            "samples is 'none', so generate would leave nothing; use samples=blocks, png or npz, or 'run'"
        )
    assets = assets_of(spec)
    fetch(spec, assets, features=False)
    check_networks(spec, assets)
    if launch.compute([[spec]], features=False, title=spec.run_id):
        print(f"{len(spec.seed_range)} images (seeds {spec.seeds}) are in {finish_samples(spec)}")
        print("next: 'erk-bench evaluate' or 'erk-bench export' with the same settings")
    return 0


COMMAND = Command(
    name="generate",
    summary="write the images of one run",
    run=generate,
    options=RunOptions,
    settings=RUN,
    examples="""\
  erk-bench generate model.weights.path=my.safetensors model.name=mine model.decoder=rgb
  erk-bench generate seeds=0-9999                           # later 0-49999 goes on from there
  torchrun --nproc_per_node=2 -m erk_bench.cli generate device=cpu""",
)
