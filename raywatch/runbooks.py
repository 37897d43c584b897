"""What to do: the pages in runbooks/, one a class, and those in runbooks/alerts/, one an alert, each named by it."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from raywatch.model import RaywatchError
from raywatch.resources import resource_dir

_LINK = re.compile(r"\[([^\]\n]+)\]\([^)\n]+\)")


class RunbookError(RaywatchError):
    """There is no such page."""


def _pages(folder: str) -> dict[str, Path]:
    return {page.stem: page for page in sorted((resource_dir("runbooks") / folder).glob("*.md"))}


def _all_pages() -> dict[str, Path]:
    return _pages(".") | _pages("alerts")


def class_runbooks() -> list[str]:
    """Return the classes that have a page, sorted."""
    return list(_pages("."))


def alert_runbooks() -> list[str]:
    """Return the alerts that have a page, sorted."""
    return list(_pages("alerts"))


def runbook_names() -> list[str]:
    """Return every class and every alert that has a page, classes first."""
    return list(_all_pages())


def runbook_text(name: str) -> str:
    """Return the page of a class or an alert, as Markdown. Raises RunbookError with the nearest name."""
    pages = _all_pages()
    if name not in pages:  # the name is looked up and never made a path
        near = get_close_matches(name, pages, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "`raywatch runbook` lists them"
        raise RunbookError(f"no runbook {name}; {hint}")
    return pages[name].read_text(encoding="utf-8")


def runbook_list() -> str:
    """Return every class and alert that has a page with its title, a line each."""
    pages = _all_pages()
    width = max(map(len, pages))
    texts = {name: page.read_text(encoding="utf-8") for name, page in pages.items()}
    titles = {name: text.partition("\n")[0] for name, text in texts.items()}
    return "\n".join(f"{n:{width}} {t.removeprefix(f'# {n}: ')}" for n, t in titles.items())


def pointer(name: str) -> str:
    """Say how the page of a class is read; empty where it has none."""
    return f"runbook: raywatch runbook {name}" if name in class_runbooks() else ""


def points(name: str, title: str) -> list[str]:
    """Return the points of a section of a class's page as plain text; none where there is no such page or section."""
    page = _pages(".").get(name)
    text = page.read_text(encoding="utf-8") if page is not None else ""
    _, _, rest = text.partition(f"\n## {title}\n")
    section = rest.partition("\n## ")[0]
    return [_plain(p) for p in section.lstrip("- ").split("\n- ")] if section.strip() else []


def _plain(markdown: str) -> str:
    """Take the marks off Markdown: links keep their words."""
    return " ".join(_LINK.sub(r"\1", markdown).replace("`", "").split())
