"""Signatures against their own samples: real hits hit and give what they say, near misses do not."""

from __future__ import annotations

from collections.abc import Container, Iterator
from datetime import timezone

from raywatch.core.classify import GENERIC
from raywatch.core.matcher import Matcher
from raywatch.core.records import join
from raywatch.core.signatures import Ruleset, Sample, Signature
from raywatch.model import UNEXPLAINED, Chunk, Component, FileId, Record, Source

LEAST = 2  # hits and misses that a shipped signature shows: one sample proves one wording, not a pattern


def check(
    ruleset: Ruleset,
    matcher: Matcher,
    *,
    shipped: bool = False,
    paths: Container[str] | None = None,
) -> list[str]:
    """Return what is wrong, a line each: `path:line: id: what, and what would be right`.

    `shipped` asks for two hits and two misses of different texts and a reference on every signature too; `paths`: only of
    the signatures in these.
    """
    return [
        f"{s.path}:{s.line}: {s.id}: {problem}"
        for s in ruleset.signatures
        if paths is None or s.path in paths
        for problem in _problems(ruleset, matcher, s, shipped=shipped)
    ]


def _problems(
    ruleset: Ruleset, matcher: Matcher, signature: Signature, *, shipped: bool
) -> Iterator[str]:
    if shipped:
        yield from _lacks(signature)
    for sample in signature.hits:
        yield from _hit_problems(ruleset, matcher, signature, sample)
    for sample in signature.misses:
        if signature.id in fired(ruleset, matcher, signature, sample):
            yield f"fires on its own near miss {sample.text[:80]!r}"


def _lacks(signature: Signature) -> Iterator[str]:
    for key, samples in (("hits", signature.hits), ("misses", signature.misses)):
        if (given := len({s.text for s in samples})) < LEAST:
            yield f"{key}: {given} given; give at least {LEAST} that differ"
    if not signature.refs:
        yield "refs is empty; give at least one"


def _hit_problems(
    ruleset: Ruleset, matcher: Matcher, signature: Signature, sample: Sample
) -> Iterator[str]:
    seen = fired(ruleset, matcher, signature, sample)
    if signature.id not in seen:
        yield f"does not fire on its own hit {sample.text[:80]!r}"
        return
    given = dict(seen[signature.id].fields) | signature.captured(seen[signature.id].text)
    for key, value in sample.gives.items():
        if given.get(key) != value:
            yield f"gives {key}={given.get(key)!r} where the sample says {value!r}"
    for other in ruleset.signatures:
        named = signature.also | sample.also
        if other.class_id == UNEXPLAINED or other.id in GENERIC:  # they give way to any other
            continue
        if other.id in seen and _differs(signature, other) and other.id not in named:
            yield f"{other.id} fires on its hit too; name it under `also` or make one narrower"


def _differs(one: Signature, other: Signature) -> bool:
    return (one.class_id, one.fact) != (other.class_id, other.fact) and one.id not in other.also


def fired(
    ruleset: Ruleset, matcher: Matcher, signature: Signature, sample: Sample
) -> dict[str, Record]:
    """Return which signatures fire on a sample, with the record that each saw."""
    found: dict[str, Record] = {}
    component = _component(signature, sample)
    chunk = Chunk(Source("sample", component), FileId(0, 0), 0, 1, _bytes(sample), 0.0, final=True)
    for record in join(chunk, matcher.scan(chunk.data), timezone.utc):
        for number in record.signatures:
            other = ruleset.signatures[number]
            if other.applies_to(component) and not other.excluded_by(record):
                found[other.id] = record
    return found


def _component(signature: Signature, sample: Sample) -> Component:
    named = sample.component or min(signature.components)
    return "unknown" if named == "any" else named  # type: ignore[return-value] # checked at parsing


def _bytes(sample: Sample) -> bytes:
    """Write a sample as its file holds it: in a JSON line newlines are escaped."""
    text = sample.text.rstrip("\n")
    return (text.replace("\n", "\\n") if text.startswith('{"') else text).encode() + b"\n"
