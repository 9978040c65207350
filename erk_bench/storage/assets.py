"""Where a named asset lies: shipped with the package, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from erk_bench.errors import UserError

PACKAGE = "package:"  # package:digits/weights/denoiser.safetensors


def locate(path: str) -> Path:
    """The local file of `path`; a relative path starts at the working folder.

    Raises UserError, naming the next step, when there is no such file.
    """
    if path.startswith(PACKAGE):
        local = Path(__file__).parent.parent / path.removeprefix(PACKAGE)
        hint = "the installation is incomplete: install the package again"
    elif "://" in path:
        raise UserError(f"'{path}' is an address; download the file and give its local path")
    else:
        local = Path(path).expanduser()
        hint = "check the path, or give another one"
    if not local.is_file():
        raise UserError(f"no file at '{local}'; {hint}")
    return local
