"""What a check says, and how all of them are run at once: whatever hangs, the answer comes within seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Literal, TypeAlias

from raywatch.model import RaywatchError

Verdict: TypeAlias = Literal["ok", "warn", "fail"]
LIMIT_S = 12.0  # of all checks together


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it stands, the fact, and what to do about it."""

    name: str
    verdict: Verdict
    fact: str
    do: str = ""


Part: TypeAlias = "Callable[[], Sequence[Check]]"


def carry_out(parts: Sequence[tuple[str, Part]], limit_s: float = LIMIT_S) -> list[Check]:
    """Run all parts beside each other; return their checks in order. One that is not done in time fails.

    In threads that nobody waits for: a file system that hangs holds whoever asks it, and nothing can end that.
    """
    done: dict[int, Sequence[Check]] = {}

    def run(number: int, part: Part) -> None:
        try:
            done[number] = part()
        except (RaywatchError, OSError, ValueError, SubprocessError) as error:
            fact = f"{type(error).__name__}: {error}"
            done[number] = [Check(parts[number][0], "fail", fact, "this is what stopped the check")]

    threads = [
        threading.Thread(target=run, args=(i, part), name=name, daemon=True)
        for i, (name, part) in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    ended = threading.Event()
    waiting = threading.Thread(target=_join, args=(threads, ended), daemon=True)
    waiting.start()
    ended.wait(limit_s)
    late = {i: [_late(name, limit_s)] for i, (name, _) in enumerate(parts)}
    return [c for checks in {**late, **done}.values() for c in checks]


def _join(threads: Sequence[threading.Thread], ended: threading.Event) -> None:
    for thread in threads:
        thread.join()
    ended.set()


def _late(name: str, limit_s: float) -> Check:
    return Check(
        name,
        "fail",
        f"not answered within {limit_s:g} s",
        "look for a file system or an address that hangs (stale NFS mount, dropped packets)",
    )
