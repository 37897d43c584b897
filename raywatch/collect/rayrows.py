"""JSON of REST APIs, Ray's and Kubernetes', read with care: a value of another kind is no value, an odd row hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

TEXT_LIMIT = 4096
UNSET = 1 << 62  # 18446744073709551615: Ray's "not set"
Row: TypeAlias = "dict[str, object]"
_Seen = TypeVar("_Seen")


def within(found: object, *keys: str) -> object:
    """Return what lies under keys of nested tables, None where a table is missing."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def rows_of(found: object) -> Iterator[Row]:
    """Yield the rows of a list; what is no row is left out."""
    yield from (r for r in found if isinstance(r, dict)) if isinstance(found, list) else ()


def each(found: object, parse: Callable[[Row], _Seen]) -> list[_Seen]:
    """Read each row of a list; a row that `parse` cannot read is left out."""
    seen = []
    for row in rows_of(found):
        try:
            seen.append(parse(row))
        except (ValueError, TypeError, OverflowError, RecursionError):  # noqa: PERF203 - one odd row must not hide the others
            continue
    return seen


def text_of(row: Row, key: str, limit: int = TEXT_LIMIT) -> str:
    """Return a value as text of at most `limit` characters, empty where there is none."""
    value = row.get(key)
    return value[:limit] if isinstance(value, str) else "" if value is None else str(value)[:limit]


def number(row: Row, key: str) -> int:
    """Return a whole number, 0 where there is none. Raises ValueError where it is something else."""
    return int(str(row.get(key) or 0))


def time_ms(row: Row, key: str) -> float | None:
    """Return unix seconds from milliseconds, None where it is not set. Raises ValueError."""
    ms = number(row, key)
    return ms / 1000 if 0 < ms < UNSET else None


def table(row: Row, key: str) -> Row:
    """Return a table, an empty one where there is none."""
    found = row.get(key)
    return found if isinstance(found, dict) else {}
