"""Makes the W&B workspace that shows what `tracker=wandb` logs: throughput, tables, curves and samples.

.venv/bin/pip install 'erk-bench[wandb]'
.venv/bin/python scripts/make_dashboard.py --entity my-team --project erk-bench
.venv/bin/python scripts/make_dashboard.py --dry-run        # only print it as JSON, without a network
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces
from pydantic import TypeAdapter  # what workspaces are made of

from erk_bench.reporting.trackers.tracker import (
    FRACTION,
    IMAGES,
    IMAGES_PER_S,
    LABEL,
    SAMPLES,
    SECONDS,
    SECONDS_PER_1000,
    error_key,
    figure_key,
    table_key,
)

METRICS = ("fd_dinov2", "fid", "fd_digits")  # the headlines
TABLES = ("table2", "table3", "edm2", "digits")
GRIDS = ("figure4_16", "figure4_32", "digits")
CURVE_AXIS = "w_con"  # of Figure 4


def make_workspace(entity: str, project: str, name: str, metrics: Sequence[str]) -> workspaces.Workspace:
    """The workspace, not saved; building it needs no network."""
    throughput = [
        panels.LinePlot(title="images per second", x=SECONDS, y=[IMAGES_PER_S]),
        panels.LinePlot(title="fraction done", x=SECONDS, y=[FRACTION], range_y=(0, 1)),
        panels.LinePlot(title="images", x=SECONDS, y=[IMAGES]),
        panels.BarPlot(title="seconds per 1000 images and worker", metrics=[SECONDS_PER_1000]),
    ]
    results = [
        panel
        for metric in metrics
        for panel in (
            panels.BarPlot(title=metric, metrics=[metric]),
            panels.ScatterPlot(
                title=f"{metric} against evaluations", x=panels.SummaryMetric("nfe"),
                y=panels.SummaryMetric(metric),
            ),
        )
    ]  # fmt: skip
    curves = [
        panels.LinePlot(
            title=f"{metric} against {CURVE_AXIS}{what}", x=CURVE_AXIS, y=[key],
            legend_template=f"${{config:{LABEL}}}, ${{config:steps}} steps",
        )
        for metric in metrics
        for key, what in ((metric, ""), (error_key(metric), ": standard error"))
    ]  # fmt: skip
    tables = [panels.WeavePanelSummaryTable(table_name=table_key(table)) for table in (*TABLES, *GRIDS[:2])]
    figures = [figure_key(f"{table}-steps") for table in TABLES]
    figures += [figure_key(f"{grid}-{kind}") for grid in GRIDS for kind in ("curves", "heat", "parallel")]
    figures.append(figure_key("search"))
    sections = (
        ("Tables", tables),
        ("Results", results),
        ("Figure 4: curves", curves),
        ("Samples", [panels.MediaBrowser(title="one method a row, the same seeds", media_keys=[SAMPLES])]),
        ("Figures", [panels.MediaBrowser(title="figures", media_keys=figures)]),
        ("Throughput", throughput),
    )
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=title, panels=list(shown), is_open=True) for title, shown in sections
        ],
    )


def as_json(workspace: workspaces.Workspace) -> dict[str, Any]:
    """The workspace with its sections and their panels."""
    dumped = TypeAdapter(workspaces.Workspace).dump_python(workspace, mode="json", exclude_none=True)
    content: dict[str, Any] = dumped
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Makes the W&B workspace of what tracker=wandb logs.")
    parser.add_argument("--entity", default="", help="user or team; needed unless --dry-run")
    parser.add_argument("--project", default="erk-bench", help="project (default: erk-bench)")
    parser.add_argument("--name", default="ERK-Guid", help="name of the workspace (default: ERK-Guid)")
    parser.add_argument("--metrics", default=",".join(METRICS), help="metrics, separated by commas")
    parser.add_argument("--dry-run", action="store_true", help="print it as JSON; nothing is sent")
    options = parser.parse_args(arguments)
    if not options.entity and not options.dry_run:
        parser.error("--entity is missing; name your user or team, or use --dry-run")
    metrics = [name for name in options.metrics.split(",") if name]
    workspace = make_workspace(options.entity, options.project, options.name, metrics)
    if options.dry_run:
        print(json.dumps(as_json(workspace), indent=1))
    else:
        print(workspace.save().url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
