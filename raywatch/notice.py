"""What a cloud's metadata service tells about the machine that asks: the nouns. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Provider: TypeAlias = Literal["aws", "gcp", "azure"]
# preemption: the machine goes. maintenance: it is ended or paused at a time that is named. rebalance: it may go.
NoticeKind: TypeAlias = Literal["preemption", "maintenance", "rebalance"]

# The classes of rules/taxonomy.yaml; maintenance has one of its own for the end, this one is for the warning.
CLASSES: Mapping[NoticeKind, str] = {
    "preemption": "preemption_notice",
    "maintenance": "preemption_notice",
    "rebalance": "rebalance_recommendation",
}


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


NoticeHookKind: TypeAlias = Literal["drain", "command"]
# history: it stood when the store was new, so an earlier daemon may have answered it already.
NoticeActionState: TypeAlias = Literal[
    "started", "succeeded", "failed", "timed_out", "interrupted", "refused", "history"
]


@dataclass(frozen=True, slots=True)
class NoticeHook:
    """One [[notice]] of the configuration: what is done at which kinds of notices.

    `argv`: the program of a `command`; of a `drain` the `ray` that is called. Never goes through a shell.
    """

    kind: NoticeHookKind
    name: str
    argv: tuple[str, ...]
    kinds: tuple[NoticeKind, ...] = ("preemption",)
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class NoticeAction:
    """What is done about a notice, once. Times are unix seconds; `deadline_at` is when the machine goes at the earliest."""

    key: str
    hook: NoticeHook
    notice: Notice
    machine: Machine
    node: str  # the Ray node that has the machine's address, 56 hexadecimal digits; '' where none is known
    state: NoticeActionState
    created_at: float
    deadline_at: float
    detail: str = ""
    output: str = ""
    ended_at: float | None = None
