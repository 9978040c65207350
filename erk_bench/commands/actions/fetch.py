"""`erk-bench fetch`: the files of a track, table, grid or run into the cache."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as RichTable

from erk_bench.base.config_files import listing
from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError
from erk_bench.base.sources import SOURCES
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_runs
from erk_bench.commands.fetch import FetchOptions
from erk_bench.evaluation.detectors import detector_of
from erk_bench.evaluation.metrics import detectors_of
from erk_bench.evaluation.protocols import PROTOCOLS
from erk_bench.runs.device import assets_of
from erk_bench.runs.needs import addresses_of
from erk_bench.spec import RunSpec

FAMILIAR = ("edm2", "fidelity")  # protocols whose metrics need 2 GB; the encoders of others are several


def fetch(options: FetchOptions, tracks: Sequence[str], overrides: Sequence[str]) -> int:
    """Of a track: its own run and those of its tables; of settings alone: the run they compose to."""
    specs = []
    if options.table:
        specs += table_runs(table_file(options.table), overrides, fetch=False)[1]
    elif options.grid:
        cells = grid_cells(grid_file(options.grid), overrides, fetch=False)[1]
        specs += [cell.spec for cell in cells]
    elif overrides or not tracks:
        specs.append(run_spec(overrides, fetch=False))
    for track in tracks:
        specs.append(run_spec([f"track={track}", *overrides], fetch=False))
        for name in listing()["table"]:
            table = table_file(name)
            if f"track={track}" in table.base and table.fetch:
                specs += table_runs(table, overrides, fetch=False)[1]
    return fetch_files(specs, familiar=bool(tracks), dry_run=options.dry_run)


def fetch_files(specs: Sequence[RunSpec], *, familiar: bool, dry_run: bool) -> int:
    """Get every file of the runs into the cache, verify all of them; dry_run: only list them.

    familiar: also the detectors of FAMILIAR protocols that the runs do not name, where they need any file at
    all.
    """
    assets = assets_of(specs[0])
    needed = [address for spec in specs for address in addresses_of(spec)]
    if familiar and any(assets.url(address) for address in needed):
        metrics = [name for protocol in FAMILIAR for name in PROTOCOLS[protocol].metrics]
        weights = [detector_of(name).weights for name in detectors_of(metrics)]
        needed += [address for address in weights if address is not None]
    addresses = dict.fromkeys(address for address in needed if assets.url(address) is not None)
    print(f"{len(addresses)} files; cache {assets.cache}, lock file {assets.lock}")
    table = RichTable()
    for header in ("file", "size", "sha256", "licence", "state"):
        table.add_column(header, justify="right" if header == "size" else "left", overflow="fold")
    problems = []
    for address in addresses:
        state, was_here = "missing", assets.is_here(address)
        try:
            if not dry_run:
                assets.locate(address)
                assets.verify(address)
            if assets.is_here(address):
                state = "verified" if was_here and not dry_run else "here" if was_here else "fetched"
        except UserError as error:
            problems.append(str(error))
            state = "FAILED"
        path = assets.path(address)
        size = f"{path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else ""
        source = SOURCES.get(address.partition(":")[0])
        known = (assets.expected_sha256(address) or "")[:8]
        table.add_row(address, size, known, source.licence if source else "", state)
    wide_console().print(table)
    if problems:
        raise UserError(f"{len(problems)} of {len(addresses)} files failed: {'; '.join(problems)}")
    return 0
