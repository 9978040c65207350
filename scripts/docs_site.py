"""Hooks of mkdocs: files of the repository that pages link to, such as results, are part of the site.

Pages link as on GitHub, relative to their place in the repository: docs/score.md to ../results/tables/x.md.
On the site docs/ is the root, so such a file lies at results/tables/x.md, and links lead there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s#:]+)")
API = re.compile(r"<!-- api: (\S+) -->")  # GitHub shows nothing for it, the site the whole documentation


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what those link to in turn."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(pages)
    while pages:
        place = pages.pop()
        for match in LINK.finditer((ROOT / place).read_text()):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(place), match[2]))
            if target in seen or target.startswith("docs/") or not (ROOT / target).is_file():
                continue
            seen.add(target)
            file = File.generated(config, target, abs_src_path=str(ROOT / target))
            file.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(file)
            if target.endswith(".md"):
                pages.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into those of the site, and marks of the API into its documentation."""
    source = page.file.src_uri
    inside = not (ROOT / source).is_file()  # of docs/
    folder = posixpath.dirname(f"docs/{source}" if inside else source)

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        there = target.removeprefix("docs/")
        if files.get_file_from_path(there) is None:
            return match[0]
        return match[1] + posixpath.relpath(there, posixpath.dirname(source) or ".")

    return API.sub(r"::: \1", LINK.sub(led, markdown))
