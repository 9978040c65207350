"""Hatch's hook of a build: the README as the package index shows it, whose links lead to the repository.

There a link such as docs/score.md leads nowhere, and a picture such as results/tables/x.png is not shown.
"""

from __future__ import annotations

import re
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A picture, or a link, to a file of the repository: no address, no place within the page.
LINK = re.compile(r"(?P<picture>!?)(?P<text>\[[^\]]*\]\()(?![a-z]+:|#|//)(?P<path>[^)\s]+)")


def absolute(text: str, repository: str) -> str:
    """The text with addresses in the place of relative links. repository: its page, https://github.com/..."""
    files = f"{repository}/blob/main"
    raw = f"{repository.replace('//github.com/', '//raw.githubusercontent.com/')}/main"
    return LINK.sub(
        lambda link: f"{link['picture']}{link['text']}{raw if link['picture'] else files}/{link['path']}",
        text,
    )


class ReadmeHook(MetadataHookInterface):
    """Named in pyproject.toml as the hook of the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the readme, which pyproject.toml calls dynamic."""
        with open(f"{self.root}/README.md", encoding="utf-8") as file:  # noqa: PTH123 - root is a text
            text = absolute(file.read(), metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
