"""The commands of the runbooks, cut as a shell cuts them: lines, pipelines, stages; and what stands in for a reader's ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_FENCE = re.compile(r"```sh\n(.*?)\n```", re.DOTALL)
_PART = re.compile(
    r"""'[^']*'|"[^"]*"|\$\(\(.*?\)\)|\$\([^)]*\)|\s+\#.*|\|\||[|;]|\s+|[^\s|;'"$]+|\$"""
)


class Pipeline(NamedTuple):
    """What stands between two `;`: its stages, each as it is typed."""

    stages: tuple[str, ...]

    @property
    def programs(self) -> tuple[str, ...]:
        """The first word of each stage."""
        return tuple(s.removeprefix("sudo ").split()[0] for s in self.stages)

    @property
    def text(self) -> str:
        """The whole."""
        return " | ".join(self.stages)


def pipelines(line: str) -> list[Pipeline]:
    """Cut a line at `;` and `|` that are not quoted; without its comment. A loop is one stage."""
    found: list[list[str]] = [[""]]
    loop = line.startswith("for ")
    for part in _PART.findall(line):
        if part.lstrip().startswith("#"):
            break
        if part == ";" and not loop:
            found.append([""])
        elif part == "|" and (not loop or len(found[-1]) > 1 or "done" in found[-1][0]):
            found[-1].append("")
        else:
            found[-1][-1] += part
    return [Pipeline(tuple(s.strip() for s in stages)) for stages in found]


def typed(pages: Iterable[str]) -> list[Pipeline]:
    """Every pipeline of the shell blocks of some pages, each once."""
    lines = [x for page in pages for block in _FENCE.findall(page) for x in block.splitlines()]
    return list(dict.fromkeys(p for line in lines for p in pipelines(line)))


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of names such as SUBMISSION_ID, the longest name first."""
    names = "|".join(sorted(values, key=len, reverse=True))
    return re.sub(rf"(?<![A-Z])(?:{names})(?![A-Z_])", lambda m: values[m[0]], text)
