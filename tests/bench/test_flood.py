"""Writers tell what they wrote, and write as fast as they were told."""

import pytest

from tests.bench import flood, logs, peers
from tests.bench.logs import Truth

FILES, RATE, SECONDS = 40, 4e6, 0.5


def test_writers_write_what_they_tell(tmp_path):
    """Each file belongs to one of them; whole lines only; failures as often as asked."""
    flood.lay_out(tmp_path, FILES)
    before = {p: p.stat().st_size for p in flood.paths_in(tmp_path, FILES)}
    how = {"rate": RATE, "seconds": SECONDS, "density": 0.05}
    with flood.writers(tmp_path, FILES, 2, **how) as writers:
        for writer in writers:
            flood.go(writer)
        told = [flood.told_by(w) for w in writers]
    truth = Truth()
    for t in told:
        truth.add(t.truth)
    grown = {p: p.stat().st_size - size for p, size in before.items()}
    texts = [p.read_bytes() for p in grown]

    assert truth.size == sum(grown.values())
    assert truth.size == pytest.approx(2 * RATE * SECONDS, rel=0.2)
    assert truth.lines == sum(t.count(b"\n") for t in texts) - FILES
    assert truth.matched == peers.counted(logs.engine(), tmp_path).lines
    assert truth.matched == pytest.approx(0.05 * truth.lines, rel=0.3)
    assert min(grown.values()) > 0
    assert {t[-1:] for t in texts} == {b"\n"}
