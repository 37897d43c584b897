"""What to do about a class: the pages in runbooks/, one a class, named by it."""

from __future__ import annotations

import re
from difflib import get_close_matches

from raywatch.model import RaywatchError
from raywatch.resources import resource_dir

_LINK = re.compile(r"\[([^\]\n]+)\]\([^)\n]+\)")


class RunbookError(RaywatchError):
    """There is no such page."""


def runbook_names() -> list[str]:
    """Return the classes that have a page, sorted."""
    return sorted(page.stem for page in resource_dir("runbooks").glob("*.md"))


def runbook_text(name: str) -> str:
    """Return the page of a class, as Markdown. Raises RunbookError with the nearest name."""
    names = runbook_names()
    if name not in names:  # the name is looked up and never made a path
        near = get_close_matches(name, names, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "`raywatch runbook` lists them"
        raise RunbookError(f"no runbook {name}; {hint}")
    return (resource_dir("runbooks") / f"{name}.md").read_text(encoding="utf-8")


def runbook_list() -> str:
    """Return every class that has a page with its title, a line each."""
    titles = {name: runbook_text(name).partition("\n")[0] for name in runbook_names()}
    return "\n".join(f"{n:28} {t.removeprefix(f'# {n}: ')}" for n, t in titles.items())


def pointer(name: str) -> str:
    """Say how the page of a class is read; empty where it has none."""
    return f"runbook: raywatch runbook {name}" if name in runbook_names() else ""


def points(name: str, title: str) -> list[str]:
    """Return the points of a section of a class's page as plain text; none where there is no such page or section."""
    if name not in runbook_names():
        return []
    _, _, rest = runbook_text(name).partition(f"\n## {title}\n")
    section = rest.partition("\n## ")[0]
    return [_plain(p) for p in section.lstrip("- ").split("\n- ")] if section.strip() else []


def _plain(markdown: str) -> str:
    """Take the marks off Markdown: links keep their words."""
    return " ".join(_LINK.sub(r"\1", markdown).replace("`", "").split())
