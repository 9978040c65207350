"""Help texts of the command line, drawn from the configuration files so that they cannot go stale."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from erk_bench.base.config_files import config_folder

if TYPE_CHECKING:
    from erk_bench.cli import Command

EXAMPLES = {
    "run": """\
  erk-bench run                                             # Heun, 32 steps, 1000 digits
  erk-bench run schedule.num_steps=8 correction=erk_guid correction.w_stiff=0.75 correction.w_con=0.3
  erk-bench run model=edm2-img512-s-fid schedule.num_steps=16    # ImageNet: fetches what it needs, wants GPUs
  erk-bench run guidance=cfg guidance.weight=1.5 guidance.interval=[0.2,2.0] seeds=0-4999
  torchrun --nproc_per_node=8 -m erk_bench.cli run seeds=0-49999""",
    "generate": """\
  erk-bench generate model.weights.path=my.safetensors model.name=mine model.decoder=rgb
  erk-bench generate seeds=0-9999                           # later 0-49999 goes on from there
  torchrun --nproc_per_node=2 -m erk_bench.cli generate device=cpu""",
    "evaluate": """\
  erk-bench evaluate seeds=0-9999 metrics.names=[fd_digits,recall_digits]""",
    "table": """\
  erk-bench table                                           # the digits table
  erk-bench table seeds=5000-5999                           # the same rows on other seeds
  erk-bench table from=results/records/digits to=results/tables   # views from records, nothing computed
  erk-bench table records=results/records/digits            # make these results the reference
  erk-bench table table=table2 rows=0,4                     # two rows of the paper's Table 2
  erk-bench table table=edm2 rows=4 sets=3                  # three seed sets: mean, spread, minimum
  erk-bench table from=results/records/digits to=paper style=paper columns=steps,method,nfe,fd_digits
  erk-bench table table=my-table.yaml                       # a table of your own
  columns: of every view, by the names of the CSV file's columns; style=paper: figures 3.25 inches wide, type
  of 7 points, no title, PDF too""",
    "grid": """\
  erk-bench grid                                            # the digits grid, minutes
  erk-bench grid schedule.num_steps=8 correction.w_stiff=0.5,1 correction.w_con=0,0.3,1   # other axes
  erk-bench grid guidance=cfg guidance.weight=1,1.5         # a setting with several values is an axis, too
  erk-bench grid grid=figure4_16 seeds=100000-109999        # the paper's Figure 4, on fewer images
  erk-bench grid from=results/records/grid to=results/grids # views from records, nothing computed
  erk-bench grid grid=my-grid.yaml                          # a grid of your own""",
    "search": """\
  erk-bench search schedule.num_steps=8 track=digits        # within the evaluations of 12 full runs
  erk-bench search schedule.num_steps=6 track=digits budget=100000 w_stiff=0.25:1.5
  erk-bench search track=imagenet512 schedule.num_steps=16 seeds=100000-109999 first=2500
  budget: network evaluations of single images, those of the guiding network too; first: images of the first
  rung (an eighth of all); factor: of the cells that a rung passes on; batch: proposals at a time. The first
  of metrics.names is what is searched for""",
    "analyze": """\
  erk-bench analyze                                         # the digits network, Heun, 32 steps
  erk-bench analyze guidance=cfg guidance.weight=1.5        # the drift with guidance
  erk-bench analyze model=edm2-img512-s-fid images=8 network_dtype=float32 to=results/figures
  images: trajectories, of the first seeds; iterations: of the power iteration, two network evaluations each.
  Written: analyze-NAME.png, .svg and .csv, in results/runs/analyses unless to=FOLDER says otherwise""",
    "plan": """\
  erk-bench plan seeds=0-49999 schedule.num_steps=16
  erk-bench plan table=digits
  erk-bench plan table=table2 throughput=150                # GPU-hours at 150 TFLOP/s a GPU
  erk-bench plan table=table2 throughput=150 --simulate 8,64,1024   # hours for so many workers
  erk-bench plan --manifest sweep.manifest grid=figure4_16  # a line for each task of a Slurm array
  erk-bench plan --manifest sweep.manifest table=table2""",
    "task": """\
  erk-bench task sweep.manifest                             # list the lines, checking each
  erk-bench task sweep.manifest 3                           # run one""",
    "fetch": """\
  erk-bench fetch imagenet512                               # all that its run and tables need
  erk-bench fetch imagenet512 dry_run=true                  # only list it
  erk-bench fetch model=edm2-img512-xxl-autog-dino          # what one run needs
  ERK_BENCH_MIRROR_EDM2=https://my.mirror/edm2 erk-bench fetch imagenet64
  settings from the environment: ERK_BENCH_CACHE (folder, ~/.cache/erk-bench), ERK_BENCH_LOCK (hashes,
  configs/assets.lock), ERK_BENCH_OFFLINE=1, ERK_BENCH_MIRROR_SOURCE (base address) for each source that
  'erk-bench doctor' lists""",
    "reference": """\
  erk-bench reference source=imagenet/val resolution=512 to=val512.safetensors
  erk-bench reference source=val.zip resolution=512 to=real.safetensors detectors=vgg16 keep_features=true
  erk-bench reference source='shards/train-*.tar' resolution=64 to=train64.safetensors limit=50000 \\
      shuffle_seed=1                                        # a random choice; the features above serve
                                                            # precision and recall
  erk-bench reference source=digits-png resolution=8 detectors=digits to=digits.safetensors   # an export's
  source: whatever Pillow opens, in a folder, a ZIP or uncompressed tar files; hidden files, system folders
  and what is no image are left out, and counted. Grey images get three equal channels
  detectors: inception (FID, IS, KID), vgg16 (precision, recall), dinov2_torch (FD-DINOv2), dinov2_pil;
  digits (FD-digits) for grey images with resolution=8
  device=auto|cpu|cuda, offline=true never uses the network; stopped, the same command goes on""",
    "export": """\
  erk-bench export format=png to=digits-png seeds=0-99
  erk-bench export format=npz to=digits.npz""",
    "qualitative": """\
  erk-bench qualitative prompts='an astronaut riding a horse' seeds=0,1     # PixArt-alpha, from the network
  erk-bench qualitative prompts=prompts.txt w_stiff=1 w_con=0.5             # a prompt a line
  erk-bench qualitative model=dit_xl_2_512 classes=207,360                  # ImageNet classes
  erk-bench qualitative model=my-pipeline classes=1 solver=heun             # a folder with model_index.json
  models: pixart_alpha, dit_xl_2_512, or a folder; steps: network evaluations; guidance: of the text or class,
  that of diffusers' pipeline unless given; device: auto, cpu or cuda""",
    "convert": """\
  erk-bench convert edm2-img512-s-2147483-0.130.pkl edm2-s.safetensors""",
    "train-digits": """\
  erk-bench train-digits                                    # about half an hour on 2 cores
  erk-bench train-digits networks=[weaker] weaker.iterations=2000 out=my-weights""",
    "doctor": """\
  erk-bench doctor""",
}


def main_help(commands: Mapping[str, Command]) -> str:
    """What `erk-bench --help` prints."""
    rows = "\n".join(f"  {name:13} {command.summary}" for name, command in commands.items())
    return f"""\
usage: erk-bench COMMAND [KEY=VALUE ...]

Samples diffusion models with chosen solvers and guidance, and measures the result. Everything is kept
under results/runs: stop at any time, and the same command goes on where it was.

commands:
{rows}

first steps:
  erk-bench table                    # the embedded benchmark, start to end, in minutes
  erk-bench grid                     # Figure 4 on digits: which (w_stiff, w_con) are good
  erk-bench plan table=table2        # what the paper's Table 2 would take
  erk-bench run --help               # every setting of a run
"""


def command_help(name: str, command: Command, groups: Mapping[str, list[str]]) -> str:
    """What `erk-bench NAME --help` prints: usage, settings with their meaning, examples."""
    parts = [f"usage: erk-bench {name} {command.usage}\n\n{command.summary[0].upper()}{command.summary[1:]}."]
    if name == "train-digits":
        text = (config_folder() / "train_digits.yaml").read_text(encoding="utf-8")
        parts.append("settings and their defaults (configs/train_digits.yaml):\n" + _indent(text))
    elif "KEY=VALUE" in command.usage:
        width = max(len(f"{group}={choice}") for group, names in groups.items() for choice in names)
        choices = "\n".join(
            f"  {f'{group}={choice}':{width}} {_first_comment(group, choice)}"
            for group, names in groups.items()
            for choice in names
        )
        parts.append(f"choices (their settings: configs/GROUP/CHOICE.yaml):\n{choices}")
        text = (config_folder() / "run.yaml").read_text(encoding="utf-8")
        parts.append("settings and their defaults:\n" + _indent(text[text.index("# These change") :]))
        parts.append("settings of a choice: GROUP.KEY=VALUE, with these defaults:\n" + _group_defaults())
    parts.append(f"examples:\n{EXAMPLES[name]}")
    return "\n\n".join(parts) + "\n"


def _first_comment(group: str, choice: str) -> str:
    lines = (config_folder() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
    return comments[0] if comments else ""


def _group_defaults() -> str:
    shown = []
    for group, choice in (
        ("solver", "heun"), ("schedule", "polynomial"), ("guidance", "cfg"), ("correction", "erk_guid"),
        ("metrics", "digits"),
    ):  # fmt: skip
        for line in (config_folder() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "name:")):
                shown.append(f"  {group}.{line}")
    return "\n".join(shown)


def _indent(text: str) -> str:
    return textwrap.indent(text.rstrip(), "  ")
