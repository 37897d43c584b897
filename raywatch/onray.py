"""A scan's tasks as tasks of a Ray cluster: Ray spreads them, tries them again and says what it cannot do.

The only importer of ray, and itself imported only where `--on-ray` asks for it: what watches Ray stands beside it, but
here a user asks for Ray as the engine. Files are read where a task runs: in object storage, or on a disk that all nodes
share. A path means another file on another machine as easily as the same one, so each is compared before it is read.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Generator, Iterable, Sequence
from datetime import tzinfo
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import ray

from raywatch import __version__
from raywatch.archive import Tick, is_url
from raywatch.core.compiling import compile_ruleset
from raywatch.core.matcher import database_key
from raywatch.core.signature_files import parse_signatures
from raywatch.core.signatures import Ruleset
from raywatch.model import RaywatchError
from raywatch.pieces import Done, Piece, Report, ScanError, Task, examine_task, tasks_of
from raywatch.pipeline import Engine, load_ruleset
from raywatch.resources import resource_dir

_AHEAD = 2  # tasks in flight for each CPU of the cluster
_LOOK_S = 0.2
_REACH_S = 5.0
_TRIES = 3  # of a task whose worker or node dies
_AGAIN_S = 1.0
# HTTP/2 (RFC 9113, 3.4 and 4.1): the preface with empty settings, which a server answers with its own at once.
_SETTINGS = b"\x04"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0" * 5
_RAISED = (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError)


class _Recipe(NamedTuple):
    """What a node needs to examine as this one does: the user's signatures as texts, the zone, and a proof."""

    rules: tuple[tuple[str, str], ...]
    zone: tzinfo
    version: str
    key: str  # of all signatures


class _Known(NamedTuple):
    """How a file is known again on another machine; all zeros in object storage."""

    inode: int
    size: int
    changed_ns: int


def examine_on_ray(
    address: str, engine: Engine, paths: Sequence[str], zone: tzinfo, tick: Tick
) -> Generator[Done]:
    """Yield what each task says, in any order. Raises ScanError, ArchiveError.

    `address`: auto, HOST:PORT of the GCS (from a machine of the cluster) or ray://HOST:PORT.
    """
    _connect(address)
    try:
        recipe = ray.put(
            _Recipe(_own_rules(engine), zone, __version__, database_key(engine.ruleset))
        )
        absolute = [p if is_url(p) else os.path.abspath(p) for p in paths]  # noqa: PTH100 - strings all the way
        yield from _spread(recipe, tasks_of(absolute), tick)
    except ray.exceptions.RayError as error:
        raise ScanError(f"--on-ray {address}: {_said(error)}") from error
    finally:
        ray.shutdown()


def _own_rules(engine: Engine) -> tuple[tuple[str, str], ...]:
    shipped = str(resource_dir("rules"))
    files = dict.fromkeys(s.path for s in engine.ruleset.signatures)
    return tuple((f, Path(f).read_text()) for f in files if not f.startswith(shipped))


def _connect(address: str) -> None:
    wrong = f"--on-ray {address}: "
    try:
        if address != "auto":
            place = urlsplit(address if "://" in address else f"//{address}")
            if place.scheme not in ("", "ray") or not place.hostname or not place.port:
                raise ScanError(f"{wrong}give auto, HOST:6379 or ray://HOST:10001")
            _reach(place.hostname, place.port)
        _init(address)
    except OSError as error:  # ConnectionError is one
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or _said(error)
        raise ScanError(f"{wrong}{why}; is it the address of a cluster that is up?") from error
    except _RAISED as error:
        raise ScanError(f"{wrong}{_said(error)}") from error


def _init(address: str) -> None:
    """Connect. Now and then Ray's proxy cannot start the server of a client, which another try mends."""
    for left in reversed(range(_TRIES)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, RuntimeError) as error:  # noqa: PERF203 - a few tries
            if not left or "Starting Ray client server failed" not in str(error):
                raise
            ray.shutdown()
            time.sleep(_AGAIN_S)
        else:
            return


def _reach(host: str, port: int) -> None:
    """Find a gRPC server at an address, for Ray waits without end for one that does not answer. Raises OSError."""
    with socket.create_connection((host, port), _REACH_S) as talk:
        if os.environ.get("RAY_USE_TLS", "0").lower() not in ("0", "", "false"):
            return
        talk.sendall(_HELLO)
        answer = talk.recv(9)
    if len(answer) < 4 or answer[3:4] != _SETTINGS:  # noqa: PLR2004 - the type's place in a frame
        raise OSError("what listens there is not Ray")


def _spread(recipe: ray.ObjectRef[_Recipe], tasks: Iterable[Task], tick: Tick) -> Generator[Done]:
    remote = ray.remote(num_cpus=1, max_retries=_TRIES, scheduling_strategy="SPREAD")(_examine)
    bound = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    flying: dict[ray.ObjectRef[Report], tuple[int, Task]] = {}
    numbered = enumerate(tasks)
    while True:
        for number, task in islice(numbered, bound - len(flying)):
            known = tuple(_known(piece) for piece in task)
            flying[remote.remote(recipe, task, known)] = number, task
        if not flying:
            return
        done, _ = ray.wait(list(flying), timeout=_LOOK_S)
        for one in done:
            number, task = flying.pop(one)
            report = ray.get(one)
            tick(task[-1].path, sum(piece.size for piece in task))
            yield number, task, report
        if not done:
            tick("", 0)


def _said(error: Exception) -> str:
    """Return an error of Ray in one line, and what to do where that is known."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, RaywatchError):
        return str(cause)
    text = str(error)
    if "No module named 'raywatch" in text:
        return f"raywatch is not installed on a node; all need raywatch {__version__}"
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    told = " ".join(rows) if "Version mismatch" in text else rows[-1] if rows else repr(error)
    return told[:400]


def _known(piece: Piece) -> _Known:
    try:
        found = os.stat(piece.path)  # noqa: PTH116
    except OSError:  # object storage; or gone, which who reads it will say
        return _Known(0, 0, 0)
    return _Known(found.st_ino, found.st_size, found.st_mtime_ns)


def _examine(recipe: _Recipe, task: Task, known: Sequence[_Known]) -> Report:
    """Run on a node: examine the files that are the same here as where the scan was started."""
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if recipe.version != __version__:
        raise ScanError(f"{host} has raywatch {__version__}, not {recipe.version}")
    engine = _engine(recipe)
    if database_key(engine.ruleset) != recipe.key:
        raise ScanError(f"{host} has other signatures than this machine")
    same = tuple(p for p, k in zip(task, known, strict=True) if _is_same(k, _known(p)))
    report = examine_task(engine, same, recipe.zone)
    report.damaged = [(p, w if is_url(p) else f"{w} (on {host})") for p, w in report.damaged]
    report.damaged += [
        (p.path, f"another file on {host}: give a folder that all nodes share, or object storage")
        for p in task
        if p not in same
    ]
    return report


def _is_same(there: _Known, here: _Known) -> bool:
    """Say whether a path means one file on both: it may grow, and some network disks number files as they like."""
    if here.size == there.size and here.changed_ns == there.changed_ns:
        return True
    return not here.inode or here.inode == there.inode


@lru_cache(maxsize=1)
def _engine(recipe: _Recipe) -> Engine:
    shipped = load_ruleset()
    mine = [s for path, text in recipe.rules for s in parse_signatures(text, path, shipped.classes)]
    ruleset = Ruleset((*shipped.signatures, *mine), shipped.classes)
    return Engine(ruleset, compile_ruleset(ruleset))
