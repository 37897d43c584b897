"""Daemons that are wrong on purpose: what a harness that kills must find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from raywatch.daemon import Daemon
from raywatch.resuming import Resuming
from raywatch.store import Commit, Store

_commit, _tick_commit = Store.commit, Daemon._commit


def cursors_first(self: Store, change: Commit, *, durable: bool = False) -> None:
    """Commit how far files were read, then what was found in them."""
    _commit(self, replace(change, docs={}), durable=durable)
    _commit(self, replace(change, cursors={}, gone=set()), durable=durable)


def effects_first(self: Store, change: Commit, *, durable: bool = False) -> None:
    """Commit what was found in files, then how far they were read."""
    _commit(self, replace(change, cursors={}, gone=set()), durable=durable)
    _commit(self, replace(change, docs={}), durable=durable)


def untold(self: Store, change: Commit, *, durable: bool = False) -> None:
    """Forget what was reported before its record was whole."""
    rows = {file: row._replace(told=0) for file, row in change.cursors.items()}
    _commit(self, replace(change, cursors=rows), durable=durable)


def hook_first(self: Daemon, now: float, **how: Any) -> None:
    """Start a hook, then write down that it was started."""
    self._fire(now)
    _tick_commit(self, now, **how)


def _again(self: Resuming, now: float) -> list[Any]:
    """Run again what a crash interrupted, whatever it is."""
    return [a for a in self.ledger.values() if a.state == "started"]


def _silent(self: Resuming, now: float) -> list[Any]:
    """Leave what a crash interrupted as it stands."""
    return []


MUTANTS: Mapping[str, Callable[[], None]] = {
    "cursors first": lambda: setattr(Store, "commit", cursors_first),
    "effects first": lambda: setattr(Store, "commit", effects_first),
    "told is not stored": lambda: setattr(Store, "commit", untold),
    "hook before its mark": lambda: setattr(Daemon, "_commit", hook_first),
    "interrupted is run again": lambda: setattr(Resuming, "unfinished", _again),
    "interrupted is not shown": lambda: setattr(Resuming, "unfinished", _silent),
}
