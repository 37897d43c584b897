"""Reading ahead: a thread unpacks or fetches what comes next while this one looks at what came before."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

_PARTS = 2  # that are read ahead
PART = 1 << 20  # bytes of one, at most


class Raw(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes; nothing at the end."""


class Ahead(io.RawIOBase):
    """The bytes of `raw`, some of them before they are asked for. Raises what `raw` raises, in its place.

    Nothing is read before the first byte is asked for. Closing it waits for the thread; `raw` stays open.
    """

    def __init__(self, raw: Raw, part: int = PART) -> None:
        self._raw, self._size = raw, part
        self._thread: ThreadPoolExecutor | None = None
        self._coming: deque[Future[bytes | None]] = deque()
        self._part = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def peek(self) -> bytes:
        """Return the next bytes without taking them; nothing at the end."""
        if not self._part:
            self._part = memoryview(self._following())
        return bytes(self._part[:8])

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override] # any buffer, says typeshed
        """Fill a part of the buffer; 0 at the end."""
        if not self._part:
            self._part = memoryview(self._following())
        size = min(len(buffer), len(self._part))
        buffer[:size], self._part = self._part[:size], self._part[size:]
        return size

    def _following(self) -> bytes:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
        while len(self._coming) < _PARTS:
            self._coming.append(self._thread.submit(self._raw.read, self._size))
        part = self._coming.popleft().result() or b""
        if part:  # the next one is asked for while this one is looked at
            self._coming.append(self._thread.submit(self._raw.read, self._size))
        return part

    def close(self) -> None:
        """Give up what was read ahead."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
        super().close()
