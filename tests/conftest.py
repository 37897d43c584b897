"""Tests keep compiled signatures in a folder of their own, never in a home; their options."""

from __future__ import annotations

import os
import tempfile

import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # else it has the folder of who started it
    _cache = tempfile.TemporaryDirectory(prefix="raywatch-tests-")
    os.environ["XDG_CACHE_HOME"] = _cache.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the seed that a failure names."""
    parser.addoption("--seed", type=int, default=1, help="of the first story of tests/crash")


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Say who gets which test."""
    from tests.balance import Balance

    return Balance(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded: what a test prints is lost where it runs in another process."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "figures":
                terminalreporter.write_line(str(value))
