"""What a cloud's metadata service tells about the machine that asks: the nouns. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Provider: TypeAlias = Literal["aws", "gcp", "azure"]
# preemption: the machine goes. maintenance: it is ended or paused at a time that is named. rebalance: it may go.
NoticeKind: TypeAlias = Literal["preemption", "maintenance", "rebalance"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Whom a metadata service speaks of: `ip` is the private address, `name` what lists of events call it."""

    instance: str = ""
    ip: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that was announced. `key` is the same for it in every life of the daemon: provider and event.

    `what` is the cloud's own word (terminate, system-reboot, Preempt), safe to show and to hand to a program.
    `deadline_at`: when it happens at the earliest, unix seconds; None where nobody says. `ends`: the machine ends.
    """

    key: str
    provider: Provider
    kind: NoticeKind
    what: str
    deadline_at: float | None
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Notices:
    """All that one list of a metadata service tells now; what was in it and is no more was withdrawn or is over."""

    at: float
    provider: Provider
    topic: str
    machine: Machine
    told: tuple[Notice, ...]
