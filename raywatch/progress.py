"""A progress bar on a terminal's standard error: bytes, rate, time left, file."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from raywatch.terminal import safe

_EVERY_S = 0.1
_NAME = 40  # characters of a path's end


class Bar:
    """What was read so far, of so much. It has no thread of its own: processes are forked beside it."""

    def __init__(self, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`total`: bytes, None where nobody knows."""
        self._bar = Progress(
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[path]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, path="")
        self._clock, self._next, self._size = clock, 0.0, 0

    def tick(self, path: str, size: int) -> None:
        """So many bytes more were read, of this file."""
        self._size += size
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        self._bar.update(self._task, completed=self._size, path=safe(path[-_NAME:]), refresh=True)

    def __enter__(self) -> Bar:  # noqa: PYI034 - typing.Self is 3.11
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
