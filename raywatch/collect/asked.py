"""Whom a poller tells of each question: the source, and the state of EndpointHealth that came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Asked: TypeAlias = Callable[[str, str], None]


def unheard(_source: str, _state: str) -> None:
    """Count nothing."""
