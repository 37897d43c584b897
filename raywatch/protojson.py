"""Protobuf messages as JSON has them, in Ray's events: keys in either style, 64-bit numbers as texts, ids in base64."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, TypeAlias

NODE, WORKER, ACTOR, JOB, TASK = 28, 28, 16, 4, 24  # bytes of Ray's ids
TEXT_LIMIT = 4096  # characters of a text
ID_LIMIT = 64
Row: TypeAlias = "Mapping[str, object]"


class Death(NamedTuple):
    """Why an actor died: which of ActorDeathCause's contexts says so, Ray's reason in it and its words.

    `raised`: the traceback of a constructor.
    """

    context: str = ""
    reason: str = ""
    message: str = ""
    raised: str = ""


@lru_cache(maxsize=256)  # our own words
def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(map(str.capitalize, rest))


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)[A-Z]", lambda m: "_" + m[0].lower(), name[:ID_LIMIT])


def value_of(row: Row, key: str) -> object:
    """Return a field by its name in the protobuf file."""
    return row[key] if key in row else row.get(_camel(key))


def table_of(row: Row, key: str) -> dict[str, object]:
    """Return a message in a message, an empty one where there is none."""
    found = value_of(row, key)
    return found if isinstance(found, dict) else {}


def text_of(row: Row, key: str, limit: int = TEXT_LIMIT) -> str:
    """Return a text of at most `limit` characters, '' where there is none."""
    value = value_of(row, key)
    return value[:limit] if isinstance(value, str) else ""


def number_of(row: Row, key: str) -> int:
    """Return a whole number, 0 where there is none."""
    found = str(value_of(row, key) or 0)[:ID_LIMIT]
    return int(found) if re.fullmatch(r"-?\d{1,19}", found, re.ASCII) else 0


def id_of(row: Row, key: str, size: int) -> str:
    """Return an id of `size` bytes in hex, as Ray's logs show it; '' where there is none or it is nobody's.

    Raises ValueError for what is no base64, or of another length.
    """
    text = text_of(row, key)
    raw = base64.b64decode(text, validate=True)
    if text and len(raw) != size:
        raise ValueError(f"{key} has {len(raw)} bytes, not {size}")
    return "" if raw == b"\xff" * size else raw.hex()


def death_of(row: Row, limit: int = TEXT_LIMIT) -> Death:
    """Return what the `death_cause` of an actor says."""
    for name, context in table_of(row, "death_cause").items():
        if isinstance(context, dict):
            message = text_of(context, "error_message", limit)
            raised = text_of(context, "formatted_exception_string", limit)
            return Death(_snake(str(name)), text_of(context, "reason"), message, raised)
    return Death()
