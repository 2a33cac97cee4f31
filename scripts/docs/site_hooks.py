"""MkDocs hooks: add pages from outside docs/, and resolve links to other files of the project."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
"""Project files outside docs/ that become pages of the site."""
TABLE_ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to the site's copies of their targets.

    A file outside docs/ is copied into the site as it is. A folder has no page, so of its link only the text stays.
    """
    source = Path(page.file.abs_src_path or "")

    def rewrite_link(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]
        if target.is_dir():
            return match[1]
        name = target.relative_to(ROOT).as_posix()
        uri = PAGES.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}")
        if uri.startswith("files/") and files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(target)))
        link = PurePosixPath(*[".."] * (len(PurePosixPath(page.file.src_uri).parts) - 1), uri)
        return f"[{match[1]}]({link}{match[3] or ''})"

    return TABLE_ROW.sub(bars_in_code, LINK.sub(rewrite_link, markdown))


def bars_in_code(row: re.Match[str]) -> str:
    r"""Write `a\|b` of a table as `a|b`: Python-Markdown, unlike GitHub, shows the backslash."""
    return re.sub(r"`[^`]+`", lambda code: code[0].replace(r"\|", "|"), row[0])
