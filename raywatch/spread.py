"""How a scan's tasks are spread on this machine: one after the other, or over processes where they are worth it."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from datetime import tzinfo
from itertools import chain, islice

from raywatch.archive import Tick, ending_of, is_tar, is_url, packing_of
from raywatch.collect.raylogs import describe
from raywatch.pieces import Done, Piece, Task, examine_task, tasks_of
from raywatch.pipeline import Engine

WORTH = 24 << 20  # bytes from which on processes are faster
_PACKED = 8  # what is packed is about so much larger


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def examine_here(
    engine: Engine, paths: Sequence[str], zone: tzinfo, tick: Tick, *, jobs: int
) -> Generator[Done]:
    """Yield what each task says, in any order; with processes only where they are worth it.

    Raises ScanError, ArchiveError.
    """
    left = tasks_of(paths)
    first: list[Task] = []
    weight = 0
    far = any(map(is_url, paths))  # what lists them has threads: fork first
    while jobs > 1 and not far and weight < WORTH and (task := next(left, None)):
        first.append(task)
        weight += sum(map(_weight, task))
    if weight >= WORTH:
        first += islice(left, jobs)
        jobs = min(jobs, len(first))  # a single task has no use for a second process
    every = chain(first, left)
    if jobs > 1 and (far or weight >= WORTH):
        from raywatch.processes import examine_in_processes  # noqa: PLC0415 - little input has no use for it

        _compile_first(engine, first)
        yield from examine_in_processes(engine, every, zone, tick, jobs=jobs)
        return
    for number, task in enumerate(every):
        yield number, task, examine_task(engine, task, zone, tick)


def _compile_first(engine: Engine, tasks: Sequence[Task]) -> None:
    """Have once what all processes will need; what is compiled in each takes as many times as long."""
    for name in {p.path for task in tasks for p in task}:
        source = describe(name.removesuffix(ending_of(name)))
        if source is not None:
            engine.matcher_of(source.component)


def _weight(piece: Piece) -> int:
    packed = packing_of(piece.path) or is_tar(piece.path)
    return piece.size * (_PACKED if packed else 1)
