"""A scan's tasks over processes of this machine: bounded in flight, ended together, none left behind.

Processes and not threads: a thread that scans waits for the interpreter at each hit, and a storm has many.
They are forked, before this process has any thread: the compiled signatures are then there at no cost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool, c_int, c_ulonglong
from datetime import tzinfo
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import Any, NamedTuple

from raywatch.archive import Tick
from raywatch.pieces import Done, Report, ScanError, Task, examine_task
from raywatch.pipeline import Engine

_AHEAD = 2  # tasks in flight for each process
_LOOK_S = 0.1


class _Shared(NamedTuple):
    """Memory of the processes together: what each has read, how many there are, whether all is over."""

    read: Any  # an array of c_ulonglong, one a process
    started: Any  # c_int with its lock
    over: Any  # c_bool


class _OverError(Exception):
    """Nobody waits for this task any more."""


class _Worker(NamedTuple):
    engine: Engine
    zone: tzinfo
    tick: Tick


# Of this process: an executor gives its tasks no other place to find it.
_worker: list[_Worker] = []


def _begin(engine: Engine, zone: tzinfo, shared: _Shared) -> None:
    # A terminal sends it to all; the first process says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with shared.started.get_lock():
        mine = shared.started.value
        shared.started.value += 1

    def tick(_path: str, size: int) -> None:
        shared.read[mine] += size
        if shared.over.value:
            raise _OverError

    _worker[:] = [_Worker(engine, zone, tick)]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _examine(task: Task) -> Report:
    return examine_task(_worker[0].engine, task, _worker[0].zone, _worker[0].tick)


def examine_in_processes(
    engine: Engine, tasks: Iterable[Task], zone: tzinfo, tick: Tick, *, jobs: int
) -> Generator[Done]:
    """Yield what each task says, in any order. Raises ScanError where a process was killed."""
    context = multiprocessing.get_context("fork")
    shared = _Shared(
        context.RawArray(c_ulonglong, jobs),
        context.Value(c_int, 0),
        context.RawValue(c_bool, False),
    )
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(engine, zone, shared)
    )
    flying: dict[Future[Report], tuple[int, Task]] = {}
    numbered = enumerate(tasks)
    told = 0
    try:
        # All are forked with the first task: before a listing starts threads.
        pool.submit(os.getpid)
        while True:
            for number, task in islice(numbered, jobs * _AHEAD - len(flying)):
                flying[pool.submit(_examine, task)] = number, task
            if not flying:
                return
            done, _ = wait(flying, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
            read = sum(shared.read)
            tick(next(iter(flying.values()))[1][0].path, read - told)
            told = read
            for future in done:
                yield *flying.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ScanError(
            "a process of the scan was killed (out of memory?); -j 1 needs the least memory"
        ) from error
    finally:
        shared.over.value = True
        pool.shutdown(cancel_futures=True)
