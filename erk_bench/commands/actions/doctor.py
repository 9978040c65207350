"""`erk-bench doctor`: what is installed, found and free on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import urllib.error
import urllib.request

import torch

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.config_files import config_folder, own_folders
from erk_bench.base.errors import UserError
from erk_bench.base.sources import SOURCES
from erk_bench.commands.settings import groups
from erk_bench.networks.presets import preset_files, preset_weights
from erk_bench.runs.records import environment

REACH_S = 3.0  # seconds that a source has to answer


def dependencies() -> dict[str, str]:
    """Every package that erk-bench names as a dependency, with the extra that wants it ("" for all installs).

    Empty where erk-bench itself is not installed.
    """
    try:
        requirements = importlib.metadata.requires("erk-bench") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for text in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", text)
        # Of several extras the one that a user would install: 'dev' has all of them.
        if name != "erk-bench" and (name not in found or found[name] == "dev"):
            found[name] = extra[1] if extra else ""
    return dict(sorted(found.items(), key=lambda item: (item[1] == "dev", item[1], item[0])))


def doctor() -> int:
    """Print it; status 1 if something needed is missing, or a source of files does not answer."""
    facts = environment(torch.device("cpu"))
    print(f"erk-bench {erk_bench.__version__}, Python {platform.python_version()}, {facts['platform']}")
    print(f"commit: {facts['commit'] or 'not a checkout'}{' (changed)' if facts['dirty'] else ''}")
    problems = _packages()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    print(f"GPUs: {', '.join(names) or 'none'}; CPU: {facts['device']}, {os.cpu_count()} cores")
    launcher = {key: os.environ[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if key in os.environ}
    print(f"launcher: {launcher or 'none (local workers)'}")
    print(f"configs: {', '.join(map(str, (config_folder(), *own_folders())))}")
    for group, choices in groups().items():
        print(f"  {group}: {', '.join(choices)}")
    assets = Assets.from_environment()
    print(f"cache: {assets.cache}{' (offline)' if assets.offline else ''}, lock file {assets.lock}")
    problems += _models(assets)
    silent = _silent_sources(assets)
    print(f"disk free here: {shutil.disk_usage('.').free / 1e9:.1f} GB")
    if silent:
        problems.append(
            f"{len(silent)} of {len(SOURCES)} sources do not answer ({', '.join(silent)}): files cannot be "
            "fetched from them; check the network, set ERK_BENCH_MIRROR_NAME, or ERK_BENCH_OFFLINE=1 to do "
            "without"
        )
    for problem in problems:
        print(f"PROBLEM: {problem}")
    unanswered = f"; {len(silent)} of {len(SOURCES)} sources do not answer" if silent else ""
    print(f"{len(problems)} problems found{unanswered}" if problems else "no problems found")
    return 1 if problems else 0


def _packages() -> list[str]:
    """Print every dependency with its version; returns the problems."""
    problems = []
    named = dependencies()
    if not named:
        problems.append("erk-bench is not installed, so its dependencies are not known: pip install -e .")
    for name, extra in named.items():
        optional = f" (optional, extra '{extra}')" if extra else ""
        try:
            print(f"  {name} {importlib.metadata.version(name)}{optional}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name} not installed{optional}")
            if not extra:
                problems.append(f"package {name} is not installed: pip install {name}")
    return problems


def _models(assets: Assets) -> list[str]:
    """Load every preset whose weights are here; returns the problems."""
    problems, not_here = [], 0
    for name, file in preset_files().items():
        try:
            if not assets.is_here(preset_weights(file)["path"]):
                not_here += 1
                continue
            net = erk_bench.load_denoiser(name)
            print(f"model {name}: {net.img_channels}x{net.img_resolution}x{net.img_resolution}, loads")
        except UserError as error:
            problems.append(f"model {name}: {error}")
    print(f"models not fetched: {not_here} ('erk-bench fetch model=NAME' gets one)")
    return problems


def _silent_sources(assets: Assets) -> list[str]:
    """Ask every source of files; returns those that do not answer. None is asked offline."""
    silent = []
    for name, source in SOURCES.items():
        url = assets.url(f"{name}:") or source.url
        if assets.offline:
            print(f"source {name}: offline")
            continue
        reason = _unreachable(url)
        print(f"source {name}: {url} {f'does not answer ({reason})' if reason else 'answers'}")
        if reason:
            silent.append(name)
    return silent


def _unreachable(url: str) -> str:
    """Why an address does not answer; empty if it does."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_S):
            return ""
    except urllib.error.HTTPError:
        return ""  # a base address need not be a page
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
