"""What clouds announced and what was done about it, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from raywatch.layout import SHORT, age, table


class AnswerRow(TypedDict):
    """What was done about a notice."""

    key: str
    hook: str
    name: str
    state: str
    detail: str
    output: str
    created_at: str | None
    ended_at: str | None


class NoticeRow(TypedDict):
    """What a cloud announced, as the API shows it."""

    key: str
    at: str | None
    provider: str
    kind: str
    what: str
    instance: str
    ip: str
    node: str
    deadline_at: str | None
    actions: list[AnswerRow]


def notices_table(rows: Sequence[NoticeRow], now: float) -> str:
    """List what clouds announced, the newest first, with what was done about it."""
    if not rows:
        return "no notices"
    heads = ("AGE", "CLOUD", "KIND", "WHAT", "MACHINE", "NODE", "NOT BEFORE", "DONE")
    ordered = sorted(rows, key=lambda n: n["at"] or "", reverse=True)
    cells = [
        (
            age(n["at"], now),
            n["provider"],
            n["kind"],
            n["what"],
            n["instance"],
            n["node"][:SHORT] or "-",
            n["deadline_at"] or "-",
            "; ".join(_answer(a) for a in n["actions"]) or "-",
        )
        for n in ordered
    ]
    return table(heads, cells, {"WHAT": 24, "MACHINE": 24, "DONE": 80})


def _answer(answer: AnswerRow) -> str:
    last = answer["output"].strip().splitlines()[-1:] if answer["state"] != "succeeded" else []
    return " ".join([answer["name"], answer["state"], answer["detail"], *last]).rstrip()
