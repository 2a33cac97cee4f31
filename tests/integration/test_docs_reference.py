"""The documentation's site builds without a warning, asks no other host, and its generated pages are fresh."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from mkdocstrings import Inventory

from scripts.docs import commands
from tests.programs import ROOT, run_python

FETCHED = re.compile(
    r"""<(?:script|img|iframe|link(?=[^>]*rel="(?:stylesheet|preconnect)"))[^>]*(?:src|href)=["']?(https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a page outside the navigation, a dead link or a dead anchor fails."""
    folder = tmp_path_factory.mktemp("site")
    done = run_python("-m", "mkdocs", "build", "--strict", "--site-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def public_names() -> set[str]:
    """Each name of `__all__` of the packages that the wheel brings."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = [importlib.import_module(name) for name in build["targets"]["wheel"]["packages"]]
    return {f"{package.__name__}.{name}" for package in packages for name in getattr(package, "__all__", ())}


def test_command_reference_is_what_make_reference_writes() -> None:
    assert commands.PAGE.read_text() == commands.page(), "run `make reference`"


def test_command_reference_names_every_command_of_the_project() -> None:
    headings = set(re.findall(r"^## (.+)$", commands.PAGE.read_text(), re.MULTILINE))
    assert headings == set(commands.console_scripts())


def test_every_public_name_is_on_the_page_of_the_api(site: Path) -> None:
    with (site / "objects.inv").open("rb") as inventory:
        shown = set(Inventory.parse_sphinx(inventory))
    assert public_names()
    assert not public_names() - shown, "name the package in docs/api.md"


def test_site_asks_no_other_host(site: Path) -> None:
    assert not [page.name for page in site.rglob("*.html") if FETCHED.search(page.read_text())]


def test_site_has_the_pages_that_lie_outside_docs(site: Path) -> None:
    pages = ["index", "project/changelog", "project/contributing", "project/security"]
    assert not [page for page in pages if not (site / f"{page}.html").is_file()]
