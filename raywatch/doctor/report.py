"""What the doctor found, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click

from raywatch.doctor.checks import Check, Verdict
from raywatch.terminal import safe

_WORDS: Mapping[Verdict, str] = {"ok": "ok", "warn": "warn", "fail": "FAIL"}
_COLORS: Mapping[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "red"}


def exit_code(checks: Sequence[Check]) -> int:
    """Return 1 where something fails, else 0."""
    return int(any(c.verdict == "fail" for c in checks))


def rendered(checks: Sequence[Check], *, as_json: bool, color: bool) -> str:
    """Return an aligned table, what to do under what needs it; or JSON."""
    counts = {v: sum(c.verdict == v for c in checks) for v in _WORDS}
    if as_json:
        rows = [{"name": c.name, "verdict": c.verdict, "fact": c.fact, "do": c.do} for c in checks]
        return json.dumps({"checks": rows, "counts": counts}, indent=2)
    width = max((len(safe(c.name)) for c in checks), default=0)
    lines = []
    for check in checks:
        word = _WORDS[check.verdict].ljust(4)
        word = click.style(word, fg=_COLORS[check.verdict]) if color else word
        lines.append(f"{word}  {safe(check.name).ljust(width)}  {safe(check.fact, 500)}".rstrip())
        if check.do and check.verdict != "ok":
            lines.append(f"{' ' * (width + 8)}do: {safe(check.do, 500)}")
    lines += ["", ", ".join(f"{n} {_WORDS[v]}" for v, n in counts.items())]
    return "\n".join(lines)
