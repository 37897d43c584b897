"""What the logs of a case corpus say about runs: every file read whole, its facts taken in as the daemon does."""

from __future__ import annotations

from datetime import timezone
from pathlib import Path

from raywatch.archive import members
from raywatch.collect.raylogs import describe
from raywatch.core.runs import Runs, note
from raywatch.model import Chunk, Fact, FileId
from raywatch.pipeline import Engine, examine

CASES = Path(__file__).parent.parent / "cases"
BLOCK = 1 << 20


def _whole(stream) -> bytes:
    found, block = bytearray(), bytearray(BLOCK)
    while size := stream.readinto(memoryview(block)):
        found += block[:size]
    return bytes(found)


def facts_of(case: str, engine: Engine):
    """Return the facts of a case, oldest first."""
    found: list[Fact] = []
    for path, stream in members(str(CASES / f"{case}.tar.xz")):
        source = describe(path)
        data = _whole(stream)
        if source is None or not data:
            continue
        chunk = Chunk(source, FileId(0, 0), 0, 1, data, 0.0, final=True)
        found += examine(engine, chunk, timezone.utc).facts
    return sorted(found, key=lambda f: f.at)


def runs_of(case: str, engine: Engine, *rules):
    """Return the runs that the logs of a case tell of, without any API."""
    runs = Runs(rules=rules)
    for fact in facts_of(case, engine):
        runs = note(runs, fact, fact.at)
    return runs
