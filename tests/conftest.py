"""Options of the tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the seed that a failure names."""
    parser.addoption("--seed", type=int, default=1, help="of the first story of tests/crash")
