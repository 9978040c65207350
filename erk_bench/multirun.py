"""Hydra's own entry point: `python -m erk_bench.multirun --multirun KEY=A,B ...`, one run a combination.

For Hydra's launchers, such as submitit's for Slurm (pip install 'erk-bench[slurm]'). Combinations are
separate runs: 'erk-bench grid' computes the same records with shared trajectories.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from erk_bench.base import stopping
from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import of_preset, run_spec
from erk_bench.commands.run import run_one
from erk_bench.commands.tracking import tracked


@hydra.main(config_path=str(config_folder().resolve()), config_name="run", version_base="1.3")
def main(config: DictConfig) -> None:
    """One run of a sweep. Its settings are composed again by our own rules, which know presets."""
    overrides = list(HydraConfig.get().overrides.task)
    try:
        spec = run_spec(overrides)
        with tracked("run", spec.run_id, [spec], overrides) as tracker:
            run_one(spec, tracker)
    except UserError as error:
        print(f"erk-bench: {error}", file=sys.stderr)
        raise SystemExit(error.status) from error
    except stopping.Stopped as stopped:
        print(f"erk-bench: {stopping.MESSAGES[stopping.STATUS]}", file=sys.stderr)
        raise SystemExit(stopping.STATUS) from stopped


# Runs have folders of their own: Hydra's would only litter, but for the logs of its launchers.
FOLDERS = {
    "hydra.output_subdir": "null",
    "hydra.run.dir": ".",
    "hydra.sweep.dir": "results/multirun/${now:%Y-%m-%d_%H-%M-%S}",
    "hydra.job_logging.root.handlers": "[console]",
}


def entry() -> None:
    """Console entry: Hydra's own command line, with our folders and what a preset brings where the user names
    none, so that what Hydra shows (--cfg job) is what runs."""
    settings = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    given = {word.partition("=")[0] for word in settings}
    sys.argv += [f"{key}={value}" for key, value in FOLDERS.items() if key not in given]
    sys.argv += of_preset(settings)
    stopping.listen()
    main()


if __name__ == "__main__":
    entry()
