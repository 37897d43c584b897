"""Tests keep compiled signatures in a folder of their own, never in a home; their options."""

from __future__ import annotations

import os
import tempfile

import pytest

_cache = tempfile.TemporaryDirectory(prefix="raywatch-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the seed that a failure names."""
    parser.addoption("--seed", type=int, default=1, help="of the first story of tests/crash")
