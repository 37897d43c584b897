"""The matcher's twin in pure Python: what a signature means on a line, said by `re` alone, a line at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TypeAlias

import yaml

from raywatch.core.signature_files import parse_rules
from raywatch.core.signatures import Ruleset
from raywatch.model import Hit

Texts: TypeAlias = tuple[tuple[str, str], ...]  # path and text, the taxonomy first

TAXONOMY = "- {id: x, group: g, role: root, scope: job, resume: none, title: an x}"


@cache
def line_regex(pattern: str) -> re.Pattern[bytes]:
    """Read a pattern for bytes; a character beyond ASCII is one thing, also where it is repeated."""
    return re.compile(re.sub(r"([^\x00-\x7f])", r"(?:\1)", pattern).encode())


def hits(ruleset: Ruleset, data: bytes) -> list[Hit]:
    """Return what the matcher must find: every signature and line, in the order of lines and signatures."""
    found, start = [], 0
    for line in data.split(b"\n"):
        found += [
            Hit(number, start, start + len(line))
            for number, signature in enumerate(ruleset.signatures)
            if any(line_regex(p).search(line) for p in signature.any)
        ]
        start += len(line) + 1
    return found


def texts(patterns: Iterable[str] | Iterable[Sequence[str]], **more: object) -> Texts:
    """Write the files of a ruleset with a signature for each pattern, or for each list of them."""
    rows = [
        {
            "id": f"s{i}",
            "class": "x",
            "where": {"component": ["any"]},
            "any": [p] if isinstance(p, str) else list(p),
            **more,
        }
        for i, p in enumerate(patterns)
    ]
    return (("taxonomy.yaml", TAXONOMY), ("rules.yaml", yaml.safe_dump(rows)))


def ruleset(patterns: Iterable[str] | Iterable[Sequence[str]], **more: object) -> Ruleset:
    """Make the ruleset of such files."""
    return parse_rules(texts(patterns, **more))


def parts(data: bytes, cuts: Iterable[int]) -> list[tuple[int, bytes]]:
    """Cut into pieces that begin at line starts: with their offsets, the newest line start before each cut."""
    starts = sorted({0, *(data.rfind(b"\n", 0, c) + 1 for c in cuts)})
    return [(a, data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
