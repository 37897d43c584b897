"""Object storage -> streams of bytes: s3://, gs:// and az:// through obstore, in ranges, one read ahead.

Endpoint and credentials come from the environment that all tools take them from (AWS_*, GOOGLE_*, AZURE_*).
The only importer of obstore, which is an extra. It starts threads: processes are forked before it is used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

RANGE = 4 << 20  # bytes of one request; two are held
# A server that is gone is an error within a minute, not after obstore's three.
_CLIENT = {"allow_http": True, "connect_timeout": "5s", "timeout": "60s"}
_RETRY = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
_BROKEN = (BaseError, ValueError, OSError)


def objects_of(url: str) -> Iterator[tuple[str, int]]:
    """Yield (URL, bytes) of the object at `url`, or of all under it, a folder's before its subfolders'. Raises OSError."""
    store, root, key = _store(url)
    try:
        meta = obstore.head(store, key) if key else None
    except FileNotFoundError:
        meta = None
    except _BROKEN as error:
        raise OSError(_said(error)) from error
    if meta is not None:
        yield url, meta["size"]
        return
    found = False
    for name, size in _under(store, key):
        found = True
        yield f"{root}/{name}", size
    if not found:
        raise OSError("no such object, and none under it")


def _under(store: ObjectStore, prefix: str) -> Iterator[tuple[str, int]]:
    try:
        listed = obstore.list_with_delimiter(store, prefix or None)
    except _BROKEN as error:
        raise OSError(_said(error)) from error
    for meta in sorted(listed["objects"], key=lambda m: m["path"]):
        yield meta["path"], meta["size"]
    for folder in sorted(listed["common_prefixes"]):
        yield from _under(store, folder)


def _store(url: str) -> tuple[ObjectStore, str, str]:
    """Return the store of a URL, what comes before its keys, and the key."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    root = f"{scheme}://{bucket}"
    try:
        store = from_url(root, client_options=_CLIENT, retry_config=_RETRY)  # type: ignore[call-overload] # by scheme
    except _BROKEN as error:
        raise OSError(_said(error)) from error
    return store, root, key.rstrip("/")


def _said(error: Exception) -> str:
    """Return what obstore says in one line, without its debug output."""
    return " ".join(str(error).partition("\n\nDebug source:")[0].split())[:300]


class ObjectStream(io.RawIOBase):
    """An object from its start to its end, as it was when it was opened. Raises OSError."""

    def __init__(self, url: str, tick: Callable[[str, int], None]) -> None:
        self._url, self._tick = url, tick
        self._store, _, self._key = _store(url)
        self._ahead: ThreadPoolExecutor | None = None
        self._next: Future[memoryview] | None = None
        try:
            result = obstore.get(self._store, self._key)
            self._size, self._tag = result.meta["size"], result.meta["e_tag"]
            small = self._size <= RANGE
            self._part = memoryview(result.bytes()) if small else memoryview(b"")
        except _BROKEN as error:
            raise OSError(_said(error)) from error
        self._asked = self._size if small else 0
        self._tick(url, len(self._part))

    def head(self) -> bytes:
        """Return the first bytes, before any is read."""
        if not self._part:
            self._part = self._following()
        return bytes(self._part[:8])

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override] # any buffer, says typeshed
        """Fill a part of the buffer; 0 at the end."""
        if not self._part:
            self._part = self._following()
        size = min(len(buffer), len(self._part))
        buffer[:size], self._part = self._part[:size], self._part[size:]
        return size

    def _following(self) -> memoryview:
        """Wait for the range that was asked for, and ask for the one behind it."""
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1)
        waiting = self._next or self._ask()
        if waiting is None:
            return memoryview(b"")
        try:
            part = waiting.result()
        except _BROKEN as error:
            raise OSError(_said(error)) from error
        self._next = self._ask()
        self._tick(self._url, len(part))
        return part

    def _ask(self) -> Future[memoryview] | None:
        if self._asked >= self._size or self._ahead is None:
            return None
        begin, end = self._asked, min(self._asked + RANGE, self._size)
        self._asked = end
        return self._ahead.submit(self._range, begin, end)

    def _range(self, begin: int, end: int) -> memoryview:
        options: obstore.GetOptions = {"range": (begin, end), "if_match": self._tag}
        return memoryview(obstore.get(self._store, self._key, options=options).bytes())

    def close(self) -> None:
        """Give up what was asked for."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        super().close()
