"""The correlator's state as documents of the store, and back; what is told once is remembered so too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Generic, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from raywatch.core.incidents import State
from raywatch.core.kinship import Links
from raywatch.core.templates import Template
from raywatch.model import Drain, Entity, Finding, Incident

Kind = Literal[
    "incident",
    "drain",
    "end",
    "waiting",
    "link",
    "sizes",
    "unknown",
    "counters",
    "run",
    "merged",
    "action",
    "start",
    "notice",
    "notice_action",
    "event",
    "pod",
]
_INCIDENT = TypeAdapter(Incident)
_DRAIN = TypeAdapter(Drain)
_FINDING = TypeAdapter(Finding)
_FINDINGS = TypeAdapter(tuple[Finding, ...])
_LINK = TypeAdapter(tuple[Entity, list[Entity]])
_SIZES = TypeAdapter(dict[str, tuple[int, ...]])
_TEMPLATES = TypeAdapter(tuple[Template, ...])
COUNTERS = TypeAdapter(dict[str, int])
_Row = TypeVar("_Row")


class Document(NamedTuple):
    """A row for the store; `json` None drops it."""

    kind: Kind
    id: str
    json: str | None


class Remembered(Generic[_Row]):
    """The newest rows of one kind, in memory and as documents, which go to the disk with what they say: bounded, oldest out."""

    def __init__(
        self, kind: Kind, rows: Mapping[str, _Row], keep: int, dump: Callable[[_Row], str]
    ) -> None:
        """Go on from stored `rows`, the oldest first. `dump` writes one as JSON."""
        self._kind, self._keep, self._dump = kind, keep, dump
        self._rows = dict(rows)
        self._shown: Mapping[str, _Row] | None = None
        self._written: list[Document] = []

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> _Row | None:
        """Return the row of a key, None where it is not known or was forgotten."""
        return self._rows.get(key)

    def rows(self) -> Mapping[str, _Row]:
        """Return all of it, the oldest first: a value that is never changed, and the same one until something is put."""
        if self._shown is None:
            self._shown = dict(self._rows)
        return self._shown

    def put(self, key: str, row: _Row) -> list[_Row]:
        """Remember a row; return those that are forgotten for it."""
        self._rows[key], self._shown = row, None
        self._written.append(Document(self._kind, key, self._dump(row)))
        over = list(islice(self._rows, max(0, len(self._rows) - self._keep)))
        self._written += [Document(self._kind, old, None) for old in over]
        return [self._rows.pop(old) for old in over]

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        yield from self._written
        self._written = []


def documents(before: State, after: State) -> Iterator[Document]:
    """Yield what changed between two states."""
    yield from _incidents(before.incidents, after.incidents)
    yield from (Document("drain", n, None) for n in before.drains.keys() - after.drains.keys())
    yield from (Document("end", n, None) for n in before.ends.keys() - after.ends.keys())
    for node, drain in after.drains.items():
        if before.drains.get(node) is not drain:
            yield Document("drain", node, _DRAIN.dump_json(drain).decode())
    for node, end in after.ends.items():
        if before.ends.get(node) is not end:
            yield Document("end", node, _FINDING.dump_json(end).decode())
    if after.waiting is not before.waiting:
        yield Document("waiting", "-", _FINDINGS.dump_json(after.waiting).decode())
    if after.unknown is not before.unknown:
        yield Document("unknown", "-", _TEMPLATES.dump_json(after.unknown).decode())
    if after.links is not before.links:
        yield from _links(before.links, after.links)
    if after.sizes is not before.sizes:
        yield Document("sizes", "-", _SIZES.dump_json(dict(after.sizes)).decode())


def _incidents(before: Sequence[Incident], after: Sequence[Incident]) -> Iterator[Document]:
    """Most of a thousand are the same objects: only the others are looked at."""
    if after is before:
        return
    was, now = set(map(id, before)), set(map(id, after))
    changed = [i for i in after if id(i) not in was]
    gone = {i.id for i in before if id(i) not in now} - {i.id for i in changed}
    yield from (Document("incident", number, None) for number in gone)
    for incident in changed:
        yield Document("incident", incident.id, _INCIDENT.dump_json(incident).decode())


def _links(before: Links, after: Links) -> Iterator[Document]:
    """A row each: a cluster of thousands of workers must not write all of them for each new one."""
    for entity in before.keys() - after.keys():
        yield Document("link", " ".join(entity), None)
    for entity, known in after.items():
        if before.get(entity) is not known:
            row = _LINK.dump_json((entity, sorted(known))).decode()
            yield Document("link", " ".join(entity), row)


def remembered(docs: Mapping[str, Mapping[str, str]]) -> State:
    """Return the state that documents hold. Raises ValueError where they are not ours."""
    try:
        incidents = tuple(_INCIDENT.validate_json(t) for t in docs.get("incident", {}).values())
        links = [_LINK.validate_json(t) for t in docs.get("link", {}).values()]
        drains = [_DRAIN.validate_json(t) for t in docs.get("drain", {}).values()]
        ends = {n: _FINDING.validate_json(t) for n, t in docs.get("end", {}).items()}
        return State(
            incidents=tuple(sorted(incidents, key=lambda i: i.first_at)),
            # Oldest first, as they were: what is forgotten goes from the front.
            drains={d.node_id: d for d in sorted(drains, key=lambda d: d.at)},
            ends=dict(sorted(ends.items(), key=lambda row: row[1].at)),
            links={e: frozenset(known) for e, known in links},
            sizes=_SIZES.validate_json(docs.get("sizes", {}).get("-", "{}")),
            unknown=_TEMPLATES.validate_json(docs.get("unknown", {}).get("-", "[]")),
            waiting=_FINDINGS.validate_json(docs.get("waiting", {}).get("-", "[]")),
        )
    except ValidationError as error:
        raise ValueError(f"the store holds what this version cannot read: {error}") from error
