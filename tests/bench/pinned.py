"""Texts that stand in other people's public repositories, each pinned by commit, place and digest.

The texts themselves are not ours to pass on, so the project holds only where they stand. They are read from bare
copies of the repositories, one folder each, named owner+name (or owner+name/repo).
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

_QUOTED = re.compile(r'"([^"]*)"|`([^`]*)`')


class _Place(TypedDict):
    repo: str  # owner/name on GitHub
    commit: str
    path: str
    lines: list[int]  # first and last, counted from 1


class Source(_Place, total=False):
    """Where a text stands."""

    pointer: str  # RFC 6901: the string of a JSON file whose lines are meant
    thread: str  # where the repository has it from
    quoted: bool  # the longest string literal of each line is meant, not the line


class PinnedError(Exception):
    """A text cannot be had as it was pinned; its message is one line."""


@dataclass(frozen=True, slots=True)
class Repositories:
    """A folder of bare repositories."""

    root: Path

    def git_dir(self, repo: str) -> Path | None:
        """Return the repository's git directory, None where it is not there."""
        base = self.root / repo.replace("/", "+")
        return next((p for p in (base / "repo", base) if (p / "objects").is_dir()), None)

    def missing(self, sources: Iterable[Source]) -> list[str]:
        """Return the repositories that the sources need and the folder lacks, in order of name."""
        return sorted(r for r in {s["repo"] for s in sources} if self.git_dir(r) is None)

    def file(self, source: Source) -> str:
        """Return the file that holds the text. Raises PinnedError."""
        git_dir = self.git_dir(source["repo"])
        place = f"{source['repo']} {source['commit'][:10]} {source['path']}"
        if git_dir is None:
            raise PinnedError(f"{place}: the repository is not under {self.root}")
        shown = subprocess.run(
            ["git", "--git-dir", git_dir, "show", f"{source['commit']}:{source['path']}"],
            capture_output=True,
            check=False,
        )
        if shown.returncode:
            raise PinnedError(f"{place}: not in that commit of the copy")
        return shown.stdout.decode("utf-8", "replace")


def excerpt(file: str, source: Source) -> str:
    """Cut the pinned text out of its file, without the indentation that all of its lines share.

    Raises PinnedError where the file has no such place.
    """
    if "pointer" in source:
        file = _at(json.loads(file), source["pointer"])
    first, last = source["lines"]
    lines = file.replace("\r", "").split("\n")[first - 1 : last]
    if len(lines) != last - first + 1:
        raise PinnedError(f"{source['path']}: no lines {first} to {last}")
    if source.get("quoted"):
        lines = [max((a or b for a, b in _QUOTED.findall(s)), key=len, default="") for s in lines]
    return textwrap.dedent("\n".join(lines)) + "\n"


def _at(value: object, pointer: str) -> str:
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise PinnedError(f"nothing at {pointer}")
    if not isinstance(value, str):
        raise PinnedError(f"no text at {pointer}")
    return value


def digest(text: str) -> str:
    """Return what proves that a text is the pinned one."""
    return hashlib.sha256(text.encode()).hexdigest()


def identity(source: Source) -> str:
    """Return the id of a text, which only its place decides."""
    place = [source["repo"], source["path"], source.get("pointer", ""), source["lines"]]
    return "h" + hashlib.sha256(json.dumps(place).encode()).hexdigest()[:10]
