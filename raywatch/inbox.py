"""What the second thread hands to the first: observations, notices, outcomes of hooks and people's questions."""

from __future__ import annotations

from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

from raywatch.asking import Request
from raywatch.model import Outcome
from raywatch.notice import Notices
from raywatch.observations import Observation, Pushed
from raywatch.resuming import Look

Item: TypeAlias = Observation | Pushed | Look | Outcome | Request | Notices
Inbox: TypeAlias = "SimpleQueue[Item]"


class Taken(NamedTuple):
    """All that lay in the inbox, by what it is, in its order."""

    seen: list[Observation | Pushed | Look]
    outcomes: list[Outcome]
    requests: list[Request]
    notices: list[Notices]


def take(inbox: Inbox) -> Taken:
    """Empty the inbox."""
    taken = Taken([], [], [], [])
    while not inbox.empty():
        match inbox.get():
            case Outcome() as outcome:
                taken.outcomes.append(outcome)
            case Request() as request:
                taken.requests.append(request)
            case Notices() as notices:
                taken.notices.append(notices)
            case item:
                taken.seen.append(item)
    return taken
