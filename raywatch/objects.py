"""Object storage -> streams of bytes: s3://, gs:// and az:// through obstore, in ranges.

Endpoint and credentials come from the environment that all tools take them from (AWS_*, GOOGLE_*, AZURE_*).
The only importer of obstore, which is an extra. It starts threads: processes are forked before it is used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import timedelta

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

RANGE = 4 << 20  # bytes of one request
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
        try:
            result = obstore.get(self._store, self._key)
            self._size, self._tag = result.meta["size"], result.meta["e_tag"]
            # What is small comes with the answer; of what is large no more is taken from it.
            self._first = bytes(result.bytes()) if self._size <= RANGE else b""
        except _BROKEN as error:
            raise OSError(_said(error)) from error
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return the next range, of up to `size` bytes; nothing at the end."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        if self._first:
            part = self._first[self._at : end]
        elif self._at < end:
            part = self._range(self._at, end)
        else:
            part = b""
        self._at += len(part)
        self._tick(self._url, len(part))
        return part

    def _range(self, begin: int, end: int) -> bytes:
        options: obstore.GetOptions = {"range": (begin, end), "if_match": self._tag}
        try:
            return bytes(obstore.get(self._store, self._key, options=options).bytes())
        except _BROKEN as error:
            raise OSError(_said(error)) from error
