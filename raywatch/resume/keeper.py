"""Keep the code of jobs that may be resumed while it is there, and forget what nobody asks for any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from raywatch.resume.packages import Kept, PackageStore, package_uris

log = logging.getLogger("raywatch.packages")
RETRY_S = 30.0  # Ray may be unpacking it
AGAIN_S = 3600.0  # tells the store that a package is still wanted
FORGET_S = 7 * 86_400.0  # of packages that nobody asked for
NEVER = float("inf")


class Keeper:
    """Keeps packages, one at a time. Its state is the asyncio loop's; disks are read and written in a thread."""

    def __init__(self, store: PackageStore, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._envs: Sequence[str] = ()
        self._next: dict[str, float] = {}
        self._told: set[str] = set()  # that it cannot be kept
        self._pruned_at = 0.0
        self._busy = False

    async def keep(self, envs: Sequence[str], session: Path) -> None:
        """Keep the packages of these runtime_envs (JSON texts) from a session's folder. Never raises.

        Cheap where nothing is due; a call while another works does nothing.
        """
        if self._busy:
            return
        if envs != self._envs:
            wanted = dict.fromkeys(u for env in envs for u in package_uris(env))
            self._envs, self._next = envs, {u: self._next.get(u, 0.0) for u in wanted}
            self._told &= wanted.keys()
        self._busy = True
        try:
            for uri in [u for u, at in self._next.items() if self._clock() >= at]:
                self._next[uri] = await self._one(uri, session)
            if self._clock() >= self._pruned_at + AGAIN_S:
                self._pruned_at = self._clock()
                await asyncio.to_thread(self._store.forget, self._clock() - FORGET_S)
        finally:
            self._busy = False

    async def _one(self, uri: str, session: Path) -> float:
        """Keep one package; return when to ask for it again."""
        answer = await asyncio.to_thread(self._store.keep, uri, session)
        first, now = self._next[uri] == 0.0, self._clock()
        if isinstance(answer, Kept):
            return now + AGAIN_S
        if (answer.final or not first) and uri not in self._told:
            self._told.add(uri)
            log.warning("code is not kept, its job may not be resumable: %s %s", uri, answer.reason)
        return NEVER if answer.final else now + RETRY_S
