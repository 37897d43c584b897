"""Which tests run in one process: all with a Ray cluster, and files whose tests share what was compiled."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# Ray clusters run one after the other, whatever runs beside them: they share ports and want memory.
TOGETHER = ("tests/ray/", "tests/shell/test_reloading.py")


class Balance(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """The largest group begins; what is in none goes, test by test, to whoever has time."""

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)
