"""Guidance methods of a table at equal effective scale, from its records.

Measures the effective scale of every row on the table's first seeds (--measure; half a minute on two idle
cores) or takes those kept in NAME-scale.json, and writes NAME-scale.md and a figure.
Usage: python scripts/guidance_scale.py [--measure] [--table digits-guidance] [--images 100]
       [--records results/records/digits-guidance] [--to results/tables]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic
from erk_bench.commands.compose_studies import table_file, table_runs
from erk_bench.reporting.scale_figures import scale_figure
from erk_bench.reporting.table_figures import to_bytes
from erk_bench.runs.device import Place
from erk_bench.studies.guidance_scale import ScaledRow, measured_scale, scale_markdown
from erk_bench.studies.records import read_records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--table", default="digits-guidance")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--records", default="results/records/digits-guidance")
    parser.add_argument("--to", type=Path, default=Path("results/tables"))
    options = parser.parse_args()
    table = table_file(options.table)
    chosen, specs = table_runs(table, [])
    records = read_records(specs, options.records)
    kept = options.to / f"{table.name}-scale.json"
    if options.measure:
        place = Place.of(specs[0])
        measured = {spec.run_id: measured_scale(spec, place, options.images) for spec in specs}
        content = {"images": options.images, "scales": measured}
        write_atomic(kept, (json.dumps(content, indent=1) + "\n").encode())
    elif not kept.is_file():
        raise UserError(f"there is no '{kept}'; add --measure")
    found = json.loads(kept.read_text())
    rows = [
        ScaledRow(str(row.group), spec, record, found["scales"][spec.run_id])
        for row, spec, record in zip(chosen, specs, records, strict=True)
    ]
    command = "python scripts/guidance_scale.py --measure"
    text = scale_markdown(table.title, rows, table.headline, found["images"], command)
    write_atomic(options.to / f"{table.name}-scale.md", text.encode())
    methods: dict[str, list[tuple[float, tuple[float, float]]]] = {"CFG": []}
    for row in rows:
        estimate = row.record.metrics[table.headline]
        point = (row.scale, (estimate.value, estimate.standard_error))
        methods.setdefault("CFG" if row.method == "none" else row.method, []).append(point)
    title = f"{table.title}: at equal effective scale"
    figure = scale_figure(title, "FD-digits", methods)
    for form in ("png", "svg"):
        write_atomic(options.to / f"{table.name}-scale.{form}", to_bytes(figure, form))
    print(text)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"guidance_scale: {error}")
