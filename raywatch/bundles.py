"""Bundles of resources, as Ray writes them in its logs and reports, and as people say them. Imports nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

Bundle: TypeAlias = tuple[tuple[str, float], ...]  # amounts by resource, sorted by name

_BUNDLE = re.compile(r"(\{[^{}]{1,4000}\})(?: ?\* ?(\d{1,9}))?")
_AMOUNT = re.compile(r"'([^'\n]{1,200})': (\d{1,18}(?:\.\d{1,18})?(?:e[+-]?\d{1,2})?)(?=[,}])")
_BYTES = frozenset(["memory", "object_store_memory"])
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1, "bytes"))
_FIRST = {"GPU": 0, "TPU": 1, "CPU": 2}  # what is scarce is said first


def bundles_in(text: str) -> Iterator[tuple[Bundle, int]]:
    """Yield what is written like {'CPU': 1.0, 'GPU': 8.0} in a text, and how often: `* 2` or `*2` may follow."""
    for found in _BUNDLE.finditer(text):
        amounts = tuple(sorted((m[1], float(m[2])) for m in _AMOUNT.finditer(found[1])))
        if amounts:
            yield amounts, int(found[2] or 1)


def spoken(bundle: Bundle) -> str:
    """Say what a bundle holds: 8 GPU, 1 CPU."""
    ordered = sorted(bundle, key=lambda item: (_FIRST.get(item[0], 9), item[0]))
    return ", ".join(f"{_amount(name, amount)} {name}" for name, amount in ordered)


def _amount(name: str, amount: float) -> str:
    if name in _BYTES:
        size, unit = next((u for u in _UNITS if amount >= u[0]), _UNITS[-1])
        return f"{amount / size:g} {unit}" if amount % size == 0 else f"{amount / size:.1f} {unit}"
    return f"{amount:g}"
