"""One warm process for all tests that kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.lives import Forge


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """What forks daemons."""
    with Forge() as warm:
        yield warm
