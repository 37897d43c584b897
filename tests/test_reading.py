"""Reading a stream says what reading it whole says: for any blocks, any pieces it comes in, any span."""

import io
from dataclasses import replace
from datetime import timezone
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raywatch import reading
from raywatch.collect.raylogs import describe
from raywatch.core import crowds
from raywatch.model import Chunk, FileId, Source
from raywatch.pipeline import examine, load_engine
from raywatch.reading import BUFFER, examine_stream
from tests.core.storms import GCS, NAMES, OOM, TEXTS_OF_ONE
from tests.core.test_repeats import sums

ENGINE = load_engine()
UTC = timezone.utc
FIXTURES = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _all_told_apart(monkeypatch):
    """Who may be told apart in a storm is another matter: tests/core/test_crowds.py."""
    monkeypatch.setattr(crowds, "LIMIT", 1_000_000)
    monkeypatch.setattr(crowds, "LIMIT_UNDATED", 1_000_000)


@pytest.fixture
def _no_storms(monkeypatch):
    """Every line is expanded: tests/core/test_repeats.py has what is counted."""
    monkeypatch.setattr(reading, "STORM", 1_000_000)


class Trickle:
    """A stream that gives as little as it likes, as pipes and archives do."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes = io.BytesIO(data), sizes

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill some of it."""
        self.sizes.append(self.sizes.pop(0))
        return self.data.readinto(buffer[: self.sizes[0]])


def source_of(name: str) -> Source:
    """A file of a session."""
    source = describe(f"/session_1/logs/{name}")
    assert source is not None
    return source


def whole(source: Source, data: bytes) -> list[tuple[object, ...]]:
    """What the text says in one piece."""
    seen = examine(ENGINE, Chunk(source, FileId(0, 0), 0, 1, data, 0.0, final=True), UTC)
    return _facts(seen.findings)


def said(seen: reading.Read) -> list[tuple[object, ...]]:
    """The same of a reading."""
    return _facts(seen.findings)


def _facts(findings) -> list[tuple[object, ...]]:
    return [(f.class_id, f.subject, f.at, f.evidence) for f in findings]


@FIXTURES
@pytest.mark.usefixtures("_no_storms")
@given(
    st.sampled_from(NAMES),
    TEXTS_OF_ONE,
    st.lists(st.integers(1, 900), min_size=1, max_size=4),
    st.data(),
)
def test_blocks_and_pieces_change_nothing(monkeypatch, name, data, sizes, draw):
    """The blocks are longer than any record here: each finding has its line, its offset and its time."""
    block = draw.draw(st.integers(4000, 6000))
    monkeypatch.setattr(reading, "BLOCK", block)
    source, text = source_of(name), data * 3
    seen = examine_stream(ENGINE, source, Trickle(text, sizes), UTC)

    assert said(seen) == whole(source, text)
    assert seen.size == len(text)


@FIXTURES
@pytest.mark.usefixtures("_no_storms")
@given(st.sampled_from(NAMES), TEXTS_OF_ONE, st.lists(st.integers(0, 100), max_size=3))
def test_spans_of_a_file_say_together_what_it_says(tmp_path, name, data, cuts):
    """Records on a border belong to one of them; lines are numbered from the span's first."""
    path = tmp_path / "log"
    path.write_bytes(data)
    source = source_of(name)
    starts = [0, *(i + 1 for i, c in enumerate(data[:-1]) if c == 10)]
    at = sorted({0, len(data), *(starts[c % len(starts)] for c in cuts)})
    found, buffer = [], bytearray((OOM.encode() + b"\n") * (BUFFER // len(OOM) + 1))[:BUFFER]
    for span in pairwise(at):  # one buffer for all: what another left in it is nothing
        with path.open("rb", buffering=0) as stream:
            read = examine_stream(ENGINE, source, stream, UTC, span=span, buffer=buffer)
        before = data.count(b"\n", 0, span[0])
        found += [replace(f.evidence, line=f.evidence.line + before) for f in read.findings]

    assert found == [evidence for *_, evidence in whole(source, data)]


def test_a_record_that_began_in_the_block_before_is_whole(tmp_path, monkeypatch):
    """The line that dates it says nothing by itself, and ends its block."""
    quiet = b"[2026-11-24 12:00:00,000 I 1 1] (raylet) healthy\n" * 2000
    dated = b"[2026-11-24 12:00:59,000 I 1 1] (raylet) says what follows:\n"
    text = quiet + dated + OOM.format(n=1).encode() + b"\n" + quiet
    monkeypatch.setattr(reading, "BLOCK", len(quiet + dated))
    monkeypatch.setattr(reading, "BUFFER", 2 * len(text))
    source = source_of("supervisor-raysubmit_1.log")
    seen = examine_stream(ENGINE, source, io.BytesIO(text), UTC)

    assert said(seen) == whole(source, text)
    assert [f.evidence.at for f in seen.findings] == [1_795_521_659.0]


def test_a_plain_file_is_counted_when_somebody_asks(tmp_path, monkeypatch):
    """The line number behind quiet blocks is right, and a quiet file is not counted at all."""
    quiet = b"".join(
        b"[2026-11-24 12:00:00,%03d I 1 1] (raylet) healthy\n" % (n % 1000) for n in range(9000)
    )
    path = tmp_path / "raylet.out"
    path.write_bytes(quiet + GCS.format(n=1).replace("gcs_server", "raylet").encode() + b"\n")
    monkeypatch.setattr(reading, "BLOCK", 10_000)
    asked = []
    real = reading._Lines.at

    def asking(lines, offset):
        asked.append(offset)
        return real(lines, offset)

    monkeypatch.setattr(reading._Lines, "at", asking)
    for name, data in (("gcs_server.out", path.read_bytes()), ("quiet.out", quiet)):
        (tmp_path / name).write_bytes(data)
        with (tmp_path / name).open("rb", buffering=0) as stream:
            seen = examine_stream(ENGINE, source_of("gcs_server.out"), stream, UTC)
        assert [f.evidence.line for f in seen.findings] == [9001] * (name != "quiet.out")
        assert bool(asked) == (name != "quiet.out")
        asked.clear()


def test_a_line_without_end_is_cut_and_memory_bounded(tmp_path):
    """Ten megabytes without a newline, then a failure."""
    data = b"x" * (10 << 20) + b"\n" + OOM.format(n=1).encode() + b"\n"
    seen = examine_stream(ENGINE, source_of("driver.log"), io.BytesIO(data), UTC)

    assert [(f.class_id, f.evidence.line) for f in seen.findings] == [("cuda_oom", 2)]


def test_a_storm_in_a_file_is_counted_over_all_blocks(tmp_path, monkeypatch):
    """Sixty thousand lines in many blocks and windows: the counts are exact, the first and the last line are there."""
    monkeypatch.setattr(reading, "BLOCK", 200_000)
    monkeypatch.setattr(reading, "WINDOW", 1_000_000)
    path = tmp_path / "driver.log"
    with path.open("wb") as out:
        out.writelines(OOM.format(n=n).encode() + b"\n" for n in range(60_000))
    with path.open("rb", buffering=0) as stream:
        seen = examine_stream(ENGINE, source_of("driver.log"), stream, UTC)

    assert list(sums(seen.findings).values()) == [60_000]
    assert len(seen.findings) < 40
    lines = [f.evidence.line for f in seen.findings]
    assert (min(lines), max(lines)) == (1, 60_000)


def test_only_a_plain_file_has_spans():
    """Nothing else can be sought without reading it."""
    with pytest.raises(TypeError, match="plain file"):
        examine_stream(ENGINE, source_of("driver.log"), Trickle(b"", [1]), UTC, span=(0, 1))
