"""The folder of a site: its own files are known by a list, so that nothing else is ever overwritten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic, writing

LIST = ".erk-bench-report"  # no .json: a search for records passes it by
KIND = "erk-bench report 1"


class SiteFolder:
    """Files of a site below a folder, inside a `with` block.

    At its end those of an earlier report that were not written again are removed; after an error they stay.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder holds something else than an earlier report."""
        self.folder = folder
        self._earlier = _listed(folder)
        self._written: dict[str, None] = {}
        self._made: set[Path] = set()
        self.num_bytes = 0

    def __enter__(self) -> SiteFolder:
        self._keep_list(self._earlier)  # first: a report that is cut short can be made again
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        left = [name for name in self._earlier if name not in self._written]
        if kind is not None:
            self._keep_list([*self._written, *left])
            return
        for name in left:
            path = self.folder / name
            with writing(path):
                path.unlink(missing_ok=True)
        self._keep_list(list(self._written))

    def write(self, name: str, data: bytes) -> None:
        """Write FOLDER/NAME. Pages are many and small: unlike records they need not survive a power cut."""
        path = self.folder / name
        with writing(path):
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(path.parent)
            path.write_bytes(data)
        self._written[name] = None
        self.num_bytes += len(data)

    def _keep_list(self, names: Sequence[str]) -> None:
        content = json.dumps({"format": KIND, "files": list(names)})
        write_atomic(self.folder / LIST, f"{content}\n".encode())


def _listed(folder: Path) -> list[str]:
    """The files of an earlier report in the folder, none in an empty one."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"to is '{folder}', which is a file; give a new or an empty folder: to=FOLDER")
    if not folder.exists() or not any(folder.iterdir()):
        return []
    try:
        content = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if content["format"] != KIND:
            raise ValueError(content["format"])
        names = [str(name) for name in content["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"to is '{folder}', which holds something else than a report; give a new or an empty folder: "
            "to=FOLDER"
        ) from error
    return [name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
