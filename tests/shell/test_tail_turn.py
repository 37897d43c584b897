"""One turn of the tailer: whose it is, what it costs, and what is said by matching many files at once."""

import os
import re
from pathlib import Path
from zlib import crc32

import pytest

from raywatch.collect.identity import LONG, STRETCH
from raywatch.collect.tail import Tailer
from raywatch.model import HIT_BITS, Chunk, Source

HIT = re.compile(rb"^.*FAIL.*$", re.MULTILINE)


class Matching:
    """A matcher that notes what it was given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def __call__(self, data: bytes | bytearray | memoryview) -> list[int]:
        self.given.append(bytes(data))
        return [m.end() << HIT_BITS for m in HIT.finditer(data)]


def describe(path: str) -> Source | None:
    """All are logs."""
    return Source(path, "gcs", "cpp")


def append(path: Path, text: str) -> set[str]:
    """Write, and say where."""
    with path.open("a") as out:
        out.write(text)
    return {str(path)}


def commit(tailer: Tailer, chunks: list[Chunk]) -> list[str]:
    """Take all; return the lines."""
    for chunk in chunks:
        tailer.commit(chunk, chunk.end)
    return [x for c in chunks for x in c.data.decode().splitlines()]


def test_many_files_are_matched_at_once_and_only_hits_are_given(tmp_path):
    """Files without a hit are committed; a hit comes with its place in the chunk, and the chunk with its line."""
    for name in "abc":
        append(tmp_path / name, "old\n" * 100)
    matching = Matching()
    with Tailer([tmp_path], describe) as tailer:
        assert tailer.poll(0.0, match=matching) == []
        written = append(tmp_path / "a", "new\n") | append(tmp_path / "b", "more\nFAIL\n")
        (chunk,) = tailer.poll(1.0, dirty=(), written=written, match=matching)

    assert len(matching.given) == 2
    assert (chunk.offset, chunk.line, chunk.data) == (400, 101, b"more\nFAIL\n")
    assert chunk.hits == [9 << HIT_BITS]
    assert sum(tailer.read_bytes.values()) == 3 * 400 + 4


@pytest.mark.parametrize("match", [Matching(), None])
@pytest.mark.parametrize("count", [50, 500])
def test_what_is_committed_has_the_proof_and_the_line_of_the_file(tmp_path, match, count):
    """Whether it was committed because nothing hit, or by whoever reads; at first it may be much."""
    log = tmp_path / "a"
    append(log, "1234567\n" * count)
    with Tailer([tmp_path], describe) as tailer:
        commit(tailer, tailer.poll(0.0, match=match))
        commit(tailer, tailer.poll(1.0, dirty=append(log, "x\ny\n"), match=match))
        (cursor,) = tailer.cursors()

    read = log.read_bytes()
    assert (cursor.offset, cursor.line) == (len(read), count + 2)
    assert cursor.stretch == min(len(read), STRETCH + 4)
    assert cursor.crc == crc32(read[-cursor.stretch :])


@pytest.mark.parametrize("match", [Matching(), None])
def test_the_proof_of_a_file_that_grows_by_little_stays_short(tmp_path, match):
    """It is cut to its last bytes, and never to less than is enough."""
    log = tmp_path / "a"
    lengths = []
    with Tailer([tmp_path], describe) as tailer:
        for n in range(LONG // 20):
            commit(
                tailer, tailer.poll(n, dirty=append(log, f"line {n:04} {'-' * 89}\n"), match=match)
            )
            (cursor,) = tailer.cursors()
            assert cursor.crc == crc32(log.read_bytes()[-cursor.stretch :])
            lengths.append(cursor.stretch)

    assert max(lengths) < LONG + 200
    assert min(lengths[STRETCH // 100 + 1 :]) >= STRETCH


def test_what_was_filled_again_unseen_is_read_before_it_rests(tmp_path):
    """No event told, and its size is the same."""
    log, other = tmp_path / "a", tmp_path / "b"
    append(log, "old 1\n")
    with Tailer([tmp_path], describe, max_open=1) as tailer:
        commit(tailer, tailer.poll(0.0))
        for now, line in ((1.0, "old 2\n"), (1.5, "old 3\n")):
            commit(tailer, tailer.poll(now, dirty=(), written=append(log, line)))
        log.write_text("new 1\nnew 2\nnew 3\n")
        found = commit(tailer, tailer.poll(2.0, dirty=append(other, "other\n")))
        for now in (3.0, 4.0):
            found += commit(tailer, tailer.poll(now, dirty=()))

    assert found == ["other", "new 1", "new 2", "new 3"]


def test_another_file_under_a_known_number_is_given_as_what_it_is(tmp_path):
    """Not as lines of the file whose number it got, when it is opened to be matched among others."""
    old, new = tmp_path / "old", tmp_path / "new"
    append(old, "one\ntwo\n")
    with Tailer([tmp_path], describe, max_open=0) as tailer:
        tailer.poll(0.0, match=Matching(), budget=0)
        commit(tailer, tailer.poll(1.0, dirty=(), match=Matching(), share=1))
        old.rename(new)
        new.write_text("FAIL\n")
        (chunk,) = tailer.poll(2.0, dirty={str(old), str(new)}, match=Matching())

    assert (chunk.source.path, chunk.rewritten) == (str(new), True)


def test_a_line_that_is_being_written_waits_without_being_read_again(tmp_path):
    """Until it goes on, or for as long as it may linger: a thousand progress bars cost nothing in between."""
    log, matching = tmp_path / "a", Matching()
    append(log, "one\ntwo FA")
    with Tailer([tmp_path], describe) as tailer:
        assert tailer.poll(0.0, match=matching) == []
        assert not tailer.busy()
        assert tailer.next_at() == 2.0
        assert tailer.poll(1.0, dirty=(), match=matching) == []
        assert not tailer.busy()
        chunks = tailer.poll(1.5, dirty=(), written=append(log, "IL\n"), match=matching)
        assert commit(tailer, chunks) == ["two FAIL"]
        tailer.poll(1.6, dirty=(), written=append(log, "last FAIL"), match=matching)
        (chunk,) = tailer.poll(4.0, dirty=(), match=matching)

    assert (chunk.data, chunk.final, chunk.line) == (b"last FAIL", True, 3)


def test_what_is_over_a_share_is_read_at_the_next_turn_without_an_event(tmp_path):
    """And who floods does not keep the others waiting."""
    append(tmp_path / "flood", "x" * 99 + "\n")
    for i in range(20):
        append(tmp_path / f"{i}", "whisper\n")
    with Tailer([tmp_path], describe, max_line=999) as tailer:
        tailer.poll(0.0, match=Matching())
        written = append(tmp_path / "flood", ("y" * 99 + "\n") * 1000)
        for i in range(20):
            written |= append(tmp_path / f"{i}", "FAIL\n")
        chunks = tailer.poll(
            1.0, dirty=(), written=written, share=1000, budget=5000, match=Matching()
        )
        assert len(commit(tailer, chunks)) == 20
        turns = 0
        while tailer.busy():
            assert tailer.poll(1.0, dirty=(), share=1000, budget=5000, match=Matching()) == []
            turns += 1

    assert 100 <= turns <= 120
    assert sum(tailer.read_bytes.values()) == 100 + 100_000 + 20 * 13


def test_files_that_wait_stand_in_front_at_the_next_turn(tmp_path):
    """A turn that had enough goes on where it ended."""
    for i in range(30):
        append(tmp_path / f"{i:02}", "FAIL\n" * 10)
    with Tailer([tmp_path], describe) as tailer:
        found: list[str] = []
        chunks = tailer.poll(0.0, budget=200, match=Matching())
        while chunks:
            found += [c.source.path for c in chunks]
            commit(tailer, chunks)
            chunks = tailer.poll(0.0, dirty=(), budget=200, match=Matching())

    assert len(found) == len(set(found)) == 30


def test_a_name_that_was_given_to_another_file_means_that_one(tmp_path):
    """After a rename no sweep is needed: what is written under the old name is read, and so is the rest of the old file."""
    log, old = tmp_path / "a", tmp_path / "a.1"
    append(log, "one\n")
    with Tailer([tmp_path], describe) as tailer:
        tailer.poll(0.0, match=Matching())
        append(log, "two FAIL\n")
        log.rename(old)
        written = append(log, "three FAIL\n")
        chunks = tailer.poll(1.0, dirty={str(old), str(log)}, written=written, match=Matching())
        assert sorted(commit(tailer, chunks)) == ["three FAIL", "two FAIL"]
        chunks = tailer.poll(2.0, dirty=(), written=append(log, "four FAIL\n"), match=Matching())

        assert commit(tailer, chunks) == ["four FAIL"]


def test_a_deleted_file_is_drained_and_let_go_without_a_sweep(tmp_path):
    """Its place on the disk is free again."""
    log = tmp_path / "a"
    append(log, "one\n")
    with Tailer([tmp_path], describe) as tailer:
        tailer.poll(0.0, match=Matching())
        append(log, "last words FAIL")
        log.unlink()
        chunks = tailer.poll(1.0, dirty={str(log)}, match=Matching())
        assert commit(tailer, chunks) == ["last words FAIL"]
        tailer.poll(1.1, dirty=(), match=Matching())

        assert (tailer.files(), tailer._held, len(tailer.gone())) == (0, 0, 1)


def test_quiet_files_rest_and_wake(tmp_path):
    """They are no objects and hold no descriptor; a name, a line and what was told are as they were."""
    for i in range(50):
        append(tmp_path / f"{i}", "one\ntwo\n")
    with Tailer([tmp_path], describe, max_open=8) as tailer:
        tailer.poll(0.0, match=Matching())
        assert (len(tailer._live), tailer._held, tailer.files()) == (1, 1, 50)
        (tmp_path / "7").rename(tmp_path / "7.1")
        append(tmp_path / "7.1", "three FAIL\n")
        (chunk,) = tailer.poll(1.0, match=Matching())
        tailer.commit(chunk, chunk.end)

        assert (chunk.line, chunk.offset, chunk.data) == (3, 8, b"three FAIL\n")
        assert {c.path: c.line for c in tailer.cursors()}[str(tmp_path / "7.1")] == 3
        assert tailer.files() == 50


def test_files_that_are_written_stay_open(tmp_path):
    """As many as may be; what was only looked into once makes room for them."""
    logs = [tmp_path / f"{i}" for i in range(50)]
    for log in logs:
        append(log, "one\n")
    with Tailer([tmp_path], describe, max_open=32) as tailer:
        tailer.poll(0.0, match=Matching())
        assert tailer._held == 4
        written = set().union(*(append(log, "two\n") for log in logs[:30]))
        tailer.poll(1.0, dirty=(), written=written, match=Matching())

        assert {f.path for f in tailer._live.values() if f.fd >= 0} >= set(map(str, logs[:30]))


def test_a_restart_where_all_was_read_is_caught_up(tmp_path):
    """And one where something was written meanwhile is, once that is read."""
    append(tmp_path / "a", "one\n")
    append(tmp_path / "b", "one\n")
    with Tailer([tmp_path], describe) as tailer:
        tailer.poll(0.0, match=Matching())
        cursors = tailer.cursors()
    with Tailer([tmp_path], describe, cursors) as tailer:
        tailer.poll(1.0, match=Matching())
        assert tailer.caught_up()
    append(tmp_path / "b", "FAIL\n")
    with Tailer([tmp_path], describe, cursors) as tailer:
        chunks = tailer.poll(2.0, match=Matching())
        assert not tailer.caught_up()
        commit(tailer, chunks)

        assert tailer.caught_up()


def test_an_open_record_comes_again_when_its_file_was_quiet(tmp_path):
    """Without any event; what was told of it is known then, and after a restart."""
    append(tmp_path / "a", "one\nFAIL\n")
    with Tailer([tmp_path], describe) as tailer:
        (chunk,) = tailer.poll(1.0, match=Matching())
        tailer.commit(chunk, 4, told=2)
        assert tailer.next_at() == 1.005
        assert tailer.poll(1.004, dirty=(), match=Matching()) == []
        (again,) = tailer.poll(1.01, dirty=(), match=Matching())
        cursors = tailer.cursors()
    with Tailer([tmp_path], describe, cursors) as tailer:
        (later,) = tailer.poll(2.0, match=Matching())

    assert (chunk.final, again.final) == (False, True)
    assert (again.offset, again.line, again.told) == (later.offset, later.line, later.told)
    assert (again.offset, again.line, again.told) == (4, 2, 2)


def test_a_sweep_reads_no_file_that_rests(tmp_path):
    """It looks at size and time."""
    for i in range(50):
        append(tmp_path / f"{i}", "one\n")
    with Tailer([tmp_path], describe, max_open=8) as tailer:
        tailer.poll(0.0, match=Matching())
        matching = Matching()
        tailer.poll(1.0, match=matching)

        assert (matching.given, len(tailer._live)) == ([], 1)


def test_what_changed_last_is_read_first(tmp_path):
    """Wherever it stands in its folder; everything else after it."""
    for i in range(60):
        append(tmp_path / f"{i}", "FAIL\n")
        os.utime(tmp_path / f"{i}", (i, i))
    os.utime(tmp_path / "31", (100, 100))
    with Tailer([tmp_path], describe) as tailer:
        tailer.begin_sweep(newest=3)
        found: list[str] = []
        while tailer.is_sweeping() or tailer.busy():
            chunks = tailer.poll(0.0, dirty=(), look=1, match=Matching())
            found += [Path(c.source.path).name for c in chunks]
            commit(tailer, chunks)

    assert found[:3] == ["31", "59", "58"]
    assert sorted(map(int, found)) == list(range(60))


def test_cursors_of_what_had_a_hit_come_first(tmp_path):
    """They belong to what the hit did; the others in any portions."""
    for i in range(9):
        append(tmp_path / f"{i}", "one\n" if i else "FAIL\n")
    with Tailer([tmp_path], describe) as tailer:
        commit(tailer, tailer.poll(0.0, match=Matching()))
        first = [Path(c.path).name for c in tailer.cursors(0)]
        others = [len(tailer.cursors(3)) for _ in range(4)]

    assert first == ["0"]
    assert sum(others) == 9  # the first one's again: once too often does no harm
    assert max(others) == 3


def test_growth_that_no_event_told_is_noted(tmp_path):
    """Not that of which the event is under way, nor what was there at the start."""
    told, untold = tmp_path / "told", tmp_path / "untold"
    for log in (told, untold):
        append(log, "one\n")
    with Tailer([tmp_path], describe) as tailer:
        tailer.poll(0.0, match=Matching())
        assert tailer.untold is None
        written = append(told, "two\n")
        append(untold, "two\n")
        tailer.begin_sweep(doubting=True)
        tailer.poll(1.0, dirty=(), match=Matching())
        assert tailer.untold == {str(told): 1.0, str(untold): 1.0}
        tailer.poll(2.0, dirty=(), written=written, match=Matching())

        assert tailer.untold == {str(untold): 1.0}


def test_a_clock_that_is_set_back_leaves_nothing_waiting(tmp_path):
    """A last line is given in the new time too."""
    append(tmp_path / "a", "last FAIL")
    with Tailer([tmp_path], describe) as tailer:
        assert tailer.poll(5000.0, match=Matching()) == []
        assert tailer.poll(1000.0, dirty=(), match=Matching()) == []
        (chunk,) = tailer.poll(1002.1, dirty=(), match=Matching())

    assert chunk.data == b"last FAIL"


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_stay_bounded_while_everything_is_written(tmp_path):
    """In each turn, not after it."""
    most = 0

    class Watched(Tailer):
        def _open(self, file):
            nonlocal most
            opened = super()._open(file)
            most = max(most, self._held, descriptors() - before)
            return opened

    logs = [tmp_path / f"{i}" for i in range(64)]
    before = descriptors()
    with Watched([tmp_path], describe, max_open=8) as tailer:
        for turn in range(4):
            written = set().union(*(append(log, f"FAIL {turn}\n") for log in logs))
            found = commit(
                tailer, tailer.poll(float(turn), dirty=(), written=written, match=Matching())
            )
            assert found == [f"FAIL {turn}"] * 64

    assert most <= 9  # and the folder of descriptors itself
