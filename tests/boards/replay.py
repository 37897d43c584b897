"""Real logs of real failures, written once more as if they happened now, faster or slower than they did."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

CASES = Path(__file__).parents[1] / "cases"
_SINCE_1970 = re.compile(rb'(?<="timestamp_ns": )\d{19}')  # Ray Train's logs are JSON
_STAMP = re.compile(rb"(20\d\d-\d\d-\d\d)([ T])(\d\d:\d\d:\d\d)(?:([.,])(\d{3,6}))?")


@dataclass(frozen=True, slots=True)
class Line:
    """A line and when it was written, in seconds since the first of its play."""

    after_s: float
    path: str
    text: bytes


def seconds_of(found: re.Match[bytes]) -> float:
    """Return a stamp of Ray's as seconds; the cases were recorded in UTC."""
    day, _, clock, _, part = found.groups()
    at = datetime.fromisoformat(f"{day.decode()}T{clock.decode()}+00:00")
    return at.timestamp() + float(b"0." + (part or b"0"))


def shifted(text: bytes, at: float) -> bytes:
    """Return a line whose stamps say `at`, in this machine's time as Ray would write it."""

    def said(found: re.Match[bytes]) -> bytes:
        _, between, _, point, part = found.groups()
        here = datetime.fromtimestamp(at, tz=timezone.utc).astimezone()
        clock = here.strftime(f"%Y-%m-%d{between.decode()}%H:%M:%S").encode()
        fraction = b"%06d" % here.microsecond
        return clock + (point + fraction[: len(part)] if point else b"")

    return _SINCE_1970.sub(b"%d" % int(at * 1e9), _STAMP.sub(said, text))


def files_of(case: str) -> Iterator[tuple[str, bytes]]:
    """Yield path below the head's logs and content of each file of a recorded case."""
    with tarfile.open(CASES / f"{case}.tar.xz") as packed:
        for member in packed:
            path = re.sub(r"^.*/logs/head/(?:session_[^/]+/logs/)?", "", member.name)
            if member.isfile() and path != member.name and "debug_state" not in path:
                file = packed.extractfile(member)
                assert file is not None
                yield path, file.read()


def lines_of(case: str, since: str, until: str, swaps: dict[str, str] | None = None) -> list[Line]:
    """Return a case's lines from one clock to another (HH:MM:SS), oldest first.

    What has no stamp was written with the line before it. Files without any are left out: nobody knows when.
    """
    made: list[Line] = []
    day = ""
    for path, content in files_of(case):
        at: float | None = None
        for text in content.splitlines(keepends=True):
            found = _STAMP.search(text)
            if found is not None:
                at, day = seconds_of(found), found.group(1).decode()
            if at is not None:
                made.append(Line(at, path, text))
    start, end = (
        datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp() for clock in (since, until)
    )
    kept = [
        Line(
            x.after_s - start,
            _swapped(x.path, swaps),
            _swapped(x.text.decode(errors="replace"), swaps).encode(),
        )
        for x in made
        if start <= x.after_s <= end
    ]
    return sorted(kept, key=lambda x: x.after_s)


def _swapped(text: str, swaps: dict[str, str] | None) -> str:
    for old, new in (swaps or {}).items():
        text = text.replace(old, new)
    return text


def squeezed(lines: list[Line], begin: float, end: float) -> list[Line]:
    """Return them between two moments of a play of length 1."""
    whole = max((x.after_s for x in lines), default=1.0) or 1.0
    return [Line(begin + (end - begin) * x.after_s / whole, x.path, x.text) for x in lines]
