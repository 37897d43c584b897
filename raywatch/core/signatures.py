r"""Signatures as values; `signature_files` reads them.

A signature says what a line means. Its `any` patterns are matched on raw lines (in JSON lines a newline is the two
characters `\n` and a quote is `\"`); `unless` and `capture` see the joined record without its prefix. The expressions
themselves are checked where they are compiled (`lint`), which a database from the cache does not need again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from raywatch.model import FailureClass, RaywatchError, Record, Trust

CAPTURE_WINDOW = 16_384  # characters of a record that captures may look at
CAPTURE_LIMIT = 500  # characters of one captured value


@lru_cache(maxsize=4_096)
def record_pattern(pattern: str) -> re.Pattern[str]:
    """Compile an `unless` or `capture`: `^` and `$` are edges of lines. Late, since most are never needed."""
    return re.compile(pattern, re.MULTILINE)


def _found(pattern: str, text: str) -> re.Match[str] | None:
    return record_pattern(pattern).search(text, 0, CAPTURE_WINDOW)


class SignatureError(RaywatchError):
    """A signature that cannot be used: `path:line: id: reason`."""

    def __init__(self, path: str, line: int, signature: str, reason: str) -> None:
        self.path, self.line, self.signature, self.reason = path, line, signature, reason
        super().__init__(f"{path}:{line}: {signature}: {reason}")


@dataclass(frozen=True, slots=True)
class Sample:
    """A text that a signature must hit or miss; `gives` are the fields it must capture."""

    text: str
    gives: Mapping[str, str] = field(default_factory=dict)
    component: str = ""
    also: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Signature:
    """What a line means: a failure class, or a fact (`class_id` is then empty)."""

    id: str
    class_id: str
    fact: str
    title: str
    maturity: str
    components: frozenset[str]
    any: tuple[str, ...]
    unless: tuple[str, ...]
    capture: tuple[str, ...]
    constants: Mapping[str, str]
    trust: Trust | None
    confidence: float
    own_words: bool  # not on copies, which Ray prefixes with `(Name pid=...)`
    aside: bool  # evidence of what something else opens
    refs: tuple[str, ...]
    also: frozenset[str]
    path: str = ""
    line: int = 0
    hits: tuple[Sample, ...] = ()
    misses: tuple[Sample, ...] = ()

    def applies_to(self, component: str) -> bool:
        """Say whether a line of this component counts; text of unknown origin matches every `where`."""
        return component == "unknown" or "any" in self.components or component in self.components

    def excluded_by(self, record: Record) -> bool:
        """Say whether an `unless` pattern stands in the record, or it only repeats another process's words."""
        if self.own_words and "stream_name" in record.fields:
            return True
        return any(_found(p, record.text) for p in self.unless)

    def captured(self, text: str) -> dict[str, str]:
        """Return the named groups found in the record, bounded, and the constants of `set`."""
        found = dict(self.constants)
        for pattern in self.capture:
            match = _found(pattern, text)
            if match:
                found |= {k: v[:CAPTURE_LIMIT] for k, v in match.groupdict().items() if v}
        return found

    def has_all_of(self, text: str) -> bool:
        """Say whether every group that captures name was found, in one wording or another: more text cannot add any."""
        named = {name for p in self.capture for name in record_pattern(p).groupindex}
        return not named or named <= self.captured(text).keys()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All signatures in force; a hit names one by its index."""

    signatures: tuple[Signature, ...]
    classes: Mapping[str, FailureClass]

    def __post_init__(self) -> None:
        seen: dict[str, Signature] = {}
        for s in self.signatures:
            if s.id in seen:
                raise SignatureError(
                    s.path, s.line, s.id, f"the id stands in {seen[s.id].path} too; ids are unique"
                )
            seen[s.id] = s

    def document(self) -> dict[str, object]:
        """Return everything but the samples, as JSON can hold it; `ruleset_of` takes it back."""
        return {
            "signatures": [_row(s) for s in self.signatures],
            "classes": [asdict(c) for c in self.classes.values()],
        }


_SAMPLES = frozenset(["hits", "misses"])


def _row(signature: Signature) -> dict[str, object]:
    row: dict[str, object] = {
        f.name: getattr(signature, f.name) for f in fields(signature) if f.name not in _SAMPLES
    }
    row["trust"] = signature.trust.name if signature.trust is not None else None
    for key in ("components", "also"):
        row[key] = sorted(getattr(signature, key))
    return row


def ruleset_of(document: Mapping[str, Any]) -> Ruleset:
    """Return the ruleset whose `document` it is, without samples."""
    classes = {row["id"]: FailureClass(**row) for row in document["classes"]}
    return Ruleset(tuple(map(_signature, document["signatures"])), MappingProxyType(classes))


def _signature(row: dict[str, Any]) -> Signature:
    row["trust"] = row["trust"] and Trust[row["trust"]]
    for key in ("components", "also"):
        row[key] = frozenset(row[key])
    for key in ("any", "unless", "capture", "refs"):
        row[key] = tuple(row[key])
    return Signature(**row)
