"""What is wrong with a dashboard by Grafana's own types, as its SDK is generated from them.

Grafana's published JSON Schema refuses what Grafana itself writes (the first step of thresholds is null, what may be
anything is said to be an object), so the types are the check: each key is one that the version knows, each value has
the type that it says, enumerations hold one of their words, nothing that must be there is missing.
"""

from __future__ import annotations

import enum
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# Keys of annotations that Grafana's Prometheus data source reads; later versions of the types have them.
OF_THE_SOURCE = ("step", "titleFormat", "tagKeys")
register_default_plugins()


def faults(board: Mapping[str, Any]) -> list[str]:
    """Return what is wrong, by path."""
    plain = json.loads(json.dumps(board))
    for annotation in plain["annotations"]["list"]:
        for key in OF_THE_SOURCE:
            annotation.pop(key, None)
    built = Dashboard.from_json(plain)
    again = json.loads(JSONEncoder().encode(built))
    return [*_differences(plain, again, ""), *_of_object(built, "")]


def _differences(mine: Any, again: Any, where: str) -> Iterator[str]:
    """Yield what the types do not know, and what they would put in."""
    if isinstance(mine, dict) and isinstance(again, dict):
        for key in sorted(mine.keys() | again.keys()):
            at = f"{where}.{key}"
            if key not in again:
                yield f"{at}: not known"
            elif key not in mine:
                yield f"{at}: missing"
            else:
                yield from _differences(mine[key], again[key], at)
    elif isinstance(mine, list) and isinstance(again, list) and len(mine) == len(again):
        for number, (one, other) in enumerate(zip(mine, again, strict=True)):
            yield from _differences(one, other, f"{where}[{number}]")
    elif mine != again:
        yield f"{where}: {mine!r} is read as {again!r}"


def _of_object(value: Any, where: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(type(value)).items():
        yield from _of(getattr(value, name, None), hint, f"{where}.{name}")


def _of(value: Any, hint: Any, where: str) -> Iterator[str]:
    """Yield where a value is not of its type."""
    if isinstance(value, dict) and hasattr(hint, "from_json"):
        value = hint.from_json(value)  # what the SDK itself leaves as it is
    kind = typing.get_origin(hint)
    if hint in (object, Any) or (kind is None and _is(value, hint)):
        if hasattr(value, "to_json"):  # among them options of a panel's own kind
            yield from _of_object(value, where)
    elif kind in _COMPOSED:
        yield from _COMPOSED[kind](value, typing.get_args(hint), where)
    else:
        yield f"{where}: {value!r} is no {hint.__name__}"


def _is(value: Any, hint: type) -> bool:
    if issubclass(hint, enum.Enum):
        return value in [e.value for e in hint]
    if hint in (int, float):
        kinds = int if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, hint)


def _one_of_types(value: Any, inner: tuple[Any, ...], where: str) -> Iterator[str]:
    if value is None and type(None) in inner:
        return
    tries = [list(_of(value, one, where)) for one in inner if one is not type(None)]
    if all(tries):  # the deepest word comes from the type that was meant
        yield max((t[0] for t in tries), key=lambda said: len(said.partition(": ")[0]))


def _one_of_values(value: Any, inner: tuple[Any, ...], where: str) -> Iterator[str]:
    if value not in inner:
        yield f"{where}: {value!r} is none of {inner}"


def _in_list(value: Any, inner: tuple[Any, ...], where: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where}: {value!r} is no list"
        return
    for number, one in enumerate(value):
        yield from _of(one, inner[0], f"{where}[{number}]")


def _in_table(value: Any, inner: tuple[Any, ...], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no object"
        return
    for key, one in value.items():
        yield from _of(one, inner[1], f"{where}.{key}")


_COMPOSED: Mapping[Any, Callable[[Any, tuple[Any, ...], str], Iterator[str]]] = {
    typing.Union: _one_of_types,
    typing.Literal: _one_of_values,
    list: _in_list,
    dict: _in_table,
}
