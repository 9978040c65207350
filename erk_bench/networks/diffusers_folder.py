"""A folder of a model that diffusers wrote, here or on the hub: which of its files a run needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from erk_bench.base.addresses import DIFFUSERS
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.networks.diffusers_files import FACTS, check_scheduler, network_facts, read_settings

WEIGHTS = "diffusion_pytorch_model"
SUFFIXES = (".safetensors", ".bin")
COMPONENTS = ("transformer/", "unet/", "")  # where the network is
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
ON_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.-]+))?")
LATENT_CHANNELS, DECODER = 4, "sd_vae_dit"

SCALING = 0.18215  # of latents, where a config.json says none: Stable Diffusion's

Settings = dict[str, Any]
Hashed = Callable[[object, str], Settings]


class Finder(NamedTuple):
    """The files of folders. fetch: those of the hub are fetched; else they are found where they were."""

    assets: Assets
    fetch: bool

    def first(self, addresses: list[str]) -> str | None:
        """The first of the files that is here; None where none is and none may be fetched.

        Raises UserError where there is none to be fetched.
        """
        found = next((address for address in addresses if self.assets.is_here(address)), None)
        if found is not None or not self.fetch or self.assets.url(addresses[0]) is None:
            return found
        problem: UserError | None = None
        for address in addresses:
            try:
                self.assets.locate(address)
                return address
            except UserError as error:
                problem = problem or error
        assert problem is not None
        raise problem


class FolderFiles(NamedTuple):
    """Addresses of a network's weights, of its settings, and of its scheduler's."""

    weights: str
    config: str
    scheduler: str


class Folder(NamedTuple):
    """text: as it was given. base: what the addresses of its files begin with."""

    text: str
    base: str
    local: bool
    finder: Finder

    @classmethod
    def of(cls, address: str, finder: Finder) -> Folder:
        """The folder of diffusers:FOLDER. Raises UserError for what can be none."""
        text = address.removeprefix(DIFFUSERS)
        folder = Path(text).expanduser()
        if folder.is_dir():
            return cls(text, f"{folder}/", True, finder)
        match = ON_HUB.fullmatch(text)
        if match is None or folder.exists():
            what = "is a file" if folder.exists() else "is not here"
            raise UserError(
                f"the folder '{text}' {what}; give one that save_pretrained of diffusers wrote, or "
                f"{DIFFUSERS}OWNER/NAME of the hub"
            )
        base = f"huggingface:{match['name']}/resolve/{match['revision'] or 'main'}/"
        return cls(text, base, False, finder)

    @property
    def name(self) -> str:
        """A name for its model."""
        return re.sub(r"[^\w.-]+", "-", Path(self.text.partition("@")[0]).resolve().name)

    def file(self, names: list[str], what: str) -> str:
        """The address of the first of the files that there is. what: is called so where none is."""
        addresses = [self.base + name for name in names]
        try:
            found = self.finder.first(addresses)
        except UserError as error:
            raise UserError(f"no folder '{self.text}' is here, and of the hub's model: {error}") from error
        if found is None and self.local:
            raise UserError(
                f"the folder '{self.text}' has no {what} ({', '.join(names)}); give one that save_pretrained "
                "of diffusers wrote"
            )
        return found or addresses[0]

    def weights(self, component: str) -> str:
        """The address of a component's weights. Raises UserError where they are in several files."""
        index = f"{self.base}{component}{WEIGHTS}.safetensors.index.json"
        if self.local and self.finder.assets.is_here(index):
            raise UserError(
                f"the weights of '{self.text}' are in several files; write them into one by "
                "save_pretrained(FOLDER, max_shard_size='100GB')"
            )
        return self.file([f"{component}{WEIGHTS}{suffix}" for suffix in SUFFIXES], "weights")

    def config(self) -> str:
        """The address of the network's settings."""
        return self.file([f"{component}config.json" for component in COMPONENTS], "network's settings")

    def facts(self, options: Mapping[str, Any]) -> Settings:
        """What the network is, as its settings say; {} while they are not here."""
        config = self.config()
        assets = self.finder.assets
        return network_facts(assets.path(config), options) if assets.is_here(config) else {}

    def model(self, model: Mapping[str, Any], options: Mapping[str, Any]) -> Settings:
        """The settings of a model whose main network is this folder's."""
        facts, found = self.facts(options), dict(model)
        found["name"] = found.get("name") or self.name
        found["weights"] = {"path": f"{DIFFUSERS}{self.text}", **options}
        if facts.get("null_class"):
            found.setdefault("unconditional", "same")
        given_scaling = {name: found[name] for name in ("latent_std", "latent_mean") if found.get(name)}
        vae = f"{self.base}vae/"
        if facts.get("img_channels") == LATENT_CHANNELS:
            if not found.get("vae") and (not self.local or self.finder.assets.is_here(f"{vae}config.json")):
                found["vae"] = {"path": self.weights("vae/")}
                found["vae_config"] = {"path": self.file(["vae/config.json"], "settings of the VAE")}
            if found.get("vae") and found.get("decoder") in (None, "by_channels"):
                found |= {"decoder": DECODER, **self._scaling(found), **given_scaling}
        return found

    def files(self, options: Mapping[str, Any]) -> FolderFiles:
        """The addresses of the network's files, whose settings are checked as far as they are here."""
        self.facts(options)
        config = self.config()
        component = config.removeprefix(self.base).removesuffix("config.json")
        beside = ["../scheduler/scheduler_config.json"] if self.local else []
        scheduler = self.file([*SCHEDULERS, *beside], "scheduler's settings")
        if self.finder.assets.is_here(scheduler):
            check_scheduler(self.finder.assets.path(scheduler))
        return FolderFiles(self.weights(component), config, scheduler)

    def _scaling(self, model: Mapping[str, Any]) -> Settings:
        """The settings of the latents' scaling, as the VAE's config.json has it, if that is here."""
        path = model["vae"]["path"]
        config = (model.get("vae_config") or {}).get("path", f"{path.rpartition('/')[0]}/config.json")
        assets = self.finder.assets
        if not assets.is_here(config):
            return {}
        told = read_settings(assets.path(config))
        factor, shift = told.get("scaling_factor", SCALING), told.get("shift_factor") or 0
        if not all(isinstance(each, (int, float)) for each in (factor, shift)) or not factor:
            raise UserError(f"'{config}' has scaling_factor {factor!r} and shift_factor {shift!r}")
        return {"latent_std": [1 / factor], **({"latent_mean": [float(shift)]} if shift else {})}

    def network(self, options: Mapping[str, Any], where: str, hashed: Hashed) -> Settings:
        """The settings of a NetworkSpec."""
        for name in options:
            if name not in FACTS:
                raise unknown_name(f"setting of {where}", name, FACTS)
        files = self.files(options)
        found = hashed({"path": files.weights}, where)
        found["config"] = hashed({"path": files.config}, f"{where}.config")
        found["scheduler"] = hashed({"path": files.scheduler}, f"{where}.scheduler")
        return {**found, "options": [[key, value] for key, value in sorted(options.items())]}
