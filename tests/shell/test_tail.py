"""The tailer on real files: nothing torn, nothing twice, nothing lost that was not truncated unread."""

import os
import shutil
import tempfile
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.collect.tail import SLICE, Cursor, Tailer
from raywatch.model import FileId, Source


def describe(path: str) -> Source | None:
    """Every file is a log but *.not."""
    return None if path.endswith(".not") else Source(path, "worker")


def lines_of(tailer: Tailer, now: float = 0.0, **how) -> list[str]:
    """Poll and commit until nothing new comes; return the lines."""
    found: list[str] = []
    for _ in range(50):
        chunks = tailer.poll(now, **how)
        if not chunks:
            break
        for chunk in chunks:
            found += chunk.data.decode(errors="replace").splitlines()
            tailer.commit(chunk, chunk.end)
    return found


class Program:
    """Random deeds on one log and its rotations, beside a model of what must be read."""

    tailer_type: type[Tailer] = Tailer

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "raylet.out"
        self.number = 0
        self.written: list[str] = []  # whole lines, each with a number of its own
        self.forgivable: set[str] = set()  # truncated or deleted before they were read
        self.read: list[str] = []
        self.partial = ""
        self.cursors: dict[FileId, Cursor] = {}
        self.now = 0.0
        self.tailer = self.tailer_type([folder], describe)

    def write(self, n: int) -> None:
        """Append whole lines (an open partial line is ended first)."""
        with self.log.open("a") as out:
            for _ in range(n):
                self.number += 1
                line = self.partial or f"line {self.number}"
                out.write(line[len(self.partial) :] + ("" if not self.partial else " end") + "\n")
                self.written.append(line + (" end" if self.partial else ""))
                self.partial = ""

    def write_part(self) -> None:
        """Leave a line without its newline."""
        if not self.partial:
            self.number += 1
            self.partial = f"part {self.number}"
            with self.log.open("a") as out:
                out.write(self.partial)

    def forgive(self) -> None:
        """What stands unread in the log is lost to any reader."""
        unread = [line for line in self.written if line not in self.read]
        if self.log.exists():
            here = self.log.read_text().splitlines()
            self.forgivable |= {line for line in unread if line in here}
        if self.partial:  # the last words of a deleted file may be given without their newline
            self.written.append(self.partial)
            self.forgivable.add(self.partial)
        self.partial = ""

    def rotate(self) -> None:
        """Rename in a chain, as Ray does; the oldest is deleted."""
        if not self.log.exists():
            return
        self.write(1)
        last = self.folder / "raylet.out.3"
        if last.exists():
            here = last.read_text().splitlines()
            self.forgivable |= {x for x in self.written if x in here and x not in self.read}
        for i in (2, 1):
            if (old := self.folder / f"raylet.out.{i}").exists():
                old.rename(self.folder / f"raylet.out.{i + 1}")
        self.log.rename(self.folder / "raylet.out.1")

    def truncate(self) -> None:
        """Cut the log to nothing in place."""
        if self.log.exists():
            self.forgive()
            os.truncate(self.log, 0)

    def refill(self) -> None:
        """Cut it and write more than there was: size and inode tell nothing."""
        if self.log.exists():
            size = self.log.stat().st_size
            self.truncate()
            while not self.log.exists() or self.log.stat().st_size <= size:
                self.write(1)

    def recreate(self) -> None:
        """Delete the log and make it anew: the inode is often reused."""
        if self.log.exists():
            self.forgive()
            self.log.unlink()
            self.write(1)

    def poll(self, share: int, keep: int) -> None:
        """Read and commit; of every `keep`th chunk only the first line."""
        self.now += 0.1
        for chunk in self.tailer.poll(self.now):
            whole = chunk.data.splitlines(keepends=True)
            taken = whole[:1] if keep == 0 and len(whole) > 1 else whole
            self.read += [x.decode().rstrip("\n") for x in taken]
            self.tailer.commit(chunk, chunk.offset + sum(map(len, taken)))
        self.save()

    def save(self) -> None:
        """What a store would keep."""
        self.cursors |= {c.file: c for c in self.tailer.cursors()}
        for file in self.tailer.gone():
            self.cursors.pop(file, None)

    def restart(self) -> None:
        """Die and come back with the stored cursors."""
        self.tailer.close()
        self.tailer = self.tailer_type([self.folder], describe, self.cursors.values())

    def finish(self) -> None:
        """Read to the end; check the laws."""
        self.write(1)
        for _ in range(4):
            self.poll(1 << 20, 1)
        self.tailer.close()
        torn = [x for x in self.read if x not in self.written]
        lost = [x for x in self.written if x not in self.read and x not in self.forgivable]
        twice = sorted({x for x in self.read if self.read.count(x) > 1})
        assert (torn, lost, twice) == ([], [], [])


DEEDS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4)),
    st.tuples(st.just("write_part")),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("refill")),
    st.tuples(st.just("recreate")),
    st.tuples(st.just("poll"), st.just(1 << 20), st.integers(0, 1)),
    st.tuples(st.just("poll"), st.just(1 << 20), st.just(1)),
    st.tuples(st.just("restart")),
)


def laws(tailer_type: type[Tailer], examples: int):
    """The interpreter for a tailer or a mutant of one."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
    )
    @given(st.lists(DEEDS, max_size=25))
    def hold(deeds):
        folder = Path(tempfile.mkdtemp())
        try:
            program = Program.__new__(Program)
            program.tailer_type = tailer_type
            program.__init__(folder)  # type: ignore[misc] # with the mutant's type in place
            for name, *arguments in deeds:
                getattr(program, name)(*arguments)
            program.finish()
        finally:
            shutil.rmtree(folder)

    return hold


def test_nothing_is_torn_lost_or_read_twice():
    """Under any program of writes, rotations, truncations, re-creations, partial commits and restarts."""
    laws(Tailer, 300)()


class NoAnchor(Tailer):
    """Mutant: trusts the inode and the size."""

    def _advance(self, file, data):
        super()._advance(file, data)
        file.anchor, file.stretch, file.crc = b"", 0, 0


class Torn(Tailer):
    """Mutant: emits lines that are still being written."""

    def _chunk(self, file, data, now, *, rewritten):
        self._linger_s = 0.0
        return super()._chunk(file, data, now, rewritten=rewritten)


class Forgetful(Tailer):
    """Mutant: takes a renamed file for a new one."""

    def _meet(self, path, found, **how):
        file = super()._meet(path, found, **how)
        if file is not None and path.endswith(".1") and file.source.path != path:
            file.source = Source(path, "worker")
            file.offset = file.line = 0
            file.anchor, file.stretch, file.crc = b"", 0, 0
        return file


@pytest.mark.parametrize("mutant", [NoAnchor, Torn, Forgetful])
def test_the_laws_catch_a_mutant(mutant):
    """The same interpreter finds a program that breaks each wrong tailer."""
    with pytest.raises(AssertionError):
        laws(mutant, 300)()


def test_line_numbers_and_offsets_are_those_of_the_file(tmp_path):
    """Also after a restart in the middle."""
    log = tmp_path / "a.out"
    log.write_text("one\ntwo\nthree\n")
    with Tailer([tmp_path], describe) as tailer:
        (chunk,) = tailer.poll(0.0)
        tailer.commit(chunk, 4)
        (cursor,) = tailer.cursors()
    with Tailer([tmp_path], describe, [cursor]) as tailer:
        (chunk,) = tailer.poll(0.0)

    assert (chunk.line, chunk.offset, chunk.data) == (2, 4, b"two\nthree\n")


def test_a_line_that_is_too_long_is_cut_and_stalls_nothing(tmp_path):
    """Its start is given, its rest passed over, the next line is whole."""
    (tmp_path / "a.out").write_bytes(b"x" * 5_000_000 + b"\nnext\n")
    with Tailer([tmp_path], describe, max_line=1000) as tailer:
        found = lines_of(tailer, share=4096)
        for _ in range(1300):
            found += lines_of(tailer, share=4096)

    assert found == ["x" * 1000, "next"]


def test_a_line_without_a_newline_is_given_after_a_while(tmp_path):
    """Not before: it may still be written."""
    (tmp_path / "a.out").write_text("last words")
    with Tailer([tmp_path], describe) as tailer:
        assert tailer.poll(10.0) == []
        assert tailer.poll(11.0) == []
        (chunk,) = tailer.poll(12.5)

    assert (chunk.data, chunk.final) == (b"last words", True)


def test_a_deleted_file_is_drained_first(tmp_path):
    """What was written before the deletion is read from the open descriptor."""
    log = tmp_path / "a.out"
    log.write_text("one\n")
    with Tailer([tmp_path], describe) as tailer:
        assert lines_of(tailer) == ["one"]
        with log.open("a") as out:
            out.write("two\n")
        log.unlink()

        assert lines_of(tailer) == ["two"]
        assert lines_of(tailer) == []
        assert tailer.files() == 0


def test_one_file_that_floods_does_not_starve_the_others(tmp_path):
    """In one poll each file has its share."""
    (tmp_path / "flood.out").write_bytes(b"flood\n" * 1_000_000)
    for i in range(20):
        (tmp_path / f"{i}.out").write_text("whisper\n")
    with Tailer([tmp_path], describe, max_line=1000) as tailer:
        chunks = tailer.poll(0.0, share=10_000, budget=100_000)

    assert len(chunks) == 21
    assert max(len(c.data) for c in chunks) <= 10_000


def test_descriptors_are_bounded_and_files_are_found_again(tmp_path):
    """A closed descriptor is opened again when its file grows."""
    for i in range(30):
        (tmp_path / f"{i}.out").write_text("one\n")
    with Tailer([tmp_path], describe, max_open=5) as tailer:
        lines_of(tailer)
        tailer.poll(0.0)
        assert tailer._held <= 5
        with (tmp_path / "0.out").open("a") as out:
            out.write("two\n")

        assert lines_of(tailer, dirty={str(tmp_path / "0.out")}) == ["two"]


def test_what_is_no_log_and_what_is_no_file_is_left_alone(tmp_path):
    """Links and sockets are not followed."""
    (tmp_path / "x.not").write_text("no\n")
    (tmp_path / "link.out").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe.out")
    with Tailer([tmp_path], describe) as tailer:
        assert lines_of(tailer) == []


def test_a_record_is_final_once_its_file_is_quiet(tmp_path):
    """The pipeline holds an open record until then."""
    (tmp_path / "a.out").write_text("Traceback\n")
    with Tailer([tmp_path], describe) as tailer:
        assert [c.final for c in tailer.poll(1.0)] == [False]
        assert [c.final for c in tailer.poll(1.1)] == [False]
        assert [c.final for c in tailer.poll(1.3)] == [True]


def gone_after_sweeps(folder: Path, *cursors: Cursor) -> list[str]:
    """The paths of the cursors that a tailer of `folder` forgets in its first sweeps."""
    paths = {c.file: c.path for c in cursors}
    with Tailer([folder], describe, cursors) as tailer:
        for now in (0.0, 2.0, 4.0):
            lines_of(tailer, now)
        return sorted(paths[f] for f in tailer.gone())


def cursor_at(number: int, path: Path) -> Cursor:
    """A cursor of a file that is not there any more."""
    return Cursor(FileId(1, number), str(path), 5, 1, 5, crc32(b"xxxxx"))


def test_cursors_of_files_that_went_while_nobody_looked_are_forgotten(tmp_path):
    """Else the store keeps them for ever; a folder that went with its files is no exception."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.out").write_text("one\n")
    found = gone_after_sweeps(
        logs, cursor_at(1, logs / "b.out"), cursor_at(2, logs / "old" / "deep" / "c.out")
    )

    assert found == [str(logs / "b.out"), str(logs / "old" / "deep" / "c.out")]


def test_cursors_of_what_cannot_be_seen_are_kept(tmp_path):
    """Another session's, a root that is not mounted yet, a folder that is unreadable, a file that is empty now."""
    logs, other = tmp_path / "logs", tmp_path / "other"
    logs.mkdir()
    empty = logs / "empty.out"
    empty.touch()
    kept = [
        cursor_at(1, other / "b.out"),
        Cursor(
            FileId(empty.stat().st_dev, empty.stat().st_ino), str(empty), 5, 1, 5, crc32(b"xxxxx")
        ),
    ]

    assert gone_after_sweeps(logs, *kept) == []
    assert gone_after_sweeps(tmp_path / "not-yet", cursor_at(1, tmp_path / "not-yet/a.out")) == []


def test_a_folder_that_cannot_be_listed_forgets_nothing(tmp_path, monkeypatch):
    """Permissions do not stop root, so the listing itself refuses."""
    sub = tmp_path / "train"
    sub.mkdir()
    real = os.scandir

    def refusing(folder: str):
        if str(folder) == str(sub):
            raise PermissionError(13, "no", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", refusing)

    assert gone_after_sweeps(tmp_path, cursor_at(1, sub / "a.out")) == []


def test_a_cursor_is_forgotten_only_after_two_sweeps(tmp_path):
    """A rename between the listing and the look is missed once."""
    stray = cursor_at(1, tmp_path / "b.out")
    with Tailer([tmp_path], describe, [stray]) as tailer:
        tailer.poll(0.0)
        assert tailer.gone() == []
        tailer.poll(2.0)

        assert tailer.gone() == [stray.file]


def by_name(path: str) -> Source | None:
    """Raylets and workers are told apart by their names."""
    return Source(path, "raylet" if "raylet" in path else "worker")


def test_another_file_under_a_known_number_is_described_anew(tmp_path):
    """Its component, its path and its line numbers are those of the new file."""
    old, new = tmp_path / "raylet.out", tmp_path / "worker.out"
    old.write_text("one\ntwo\n")
    with Tailer([tmp_path], by_name, max_open=0) as tailer:
        for _ in range(3):
            lines_of(tailer)
        old.rename(new)  # what is left when a number is reused: other name, other content
        new.write_text("other\n")
        (chunk,) = tailer.poll(1.0)

    assert chunk.source == Source(str(new), "worker")
    assert (chunk.line, chunk.data) == (1, b"other\n")


def test_another_file_under_a_number_of_which_nothing_was_read_is_described_anew(tmp_path):
    """There is no content to compare."""
    old, new = tmp_path / "raylet.out", tmp_path / "worker.out"
    old.write_text("one\n")
    with Tailer([tmp_path], by_name, max_open=0) as tailer:
        tailer.poll(0.0, budget=0)
        old.rename(new)
        new.write_text("other\n")
        (chunk,) = tailer.poll(1.0)

    assert (chunk.source, chunk.line) == (Source(str(new), "worker"), 1)


def test_another_file_under_a_stored_number_is_described_anew(tmp_path):
    """Also when the number was reused while nobody looked."""
    old, new = tmp_path / "raylet.out", tmp_path / "worker.out"
    old.write_text("one\ntwo\n")
    with Tailer([tmp_path], by_name) as tailer:
        lines_of(tailer)
        (cursor,) = tailer.cursors()
    old.rename(new)
    new.write_text("other\n")
    with Tailer([tmp_path], by_name, [cursor]) as tailer:
        (chunk,) = tailer.poll(1.0)

    assert (chunk.source, chunk.line) == (Source(str(new), "worker"), 1)


def test_what_is_no_log_under_a_known_number_is_left_alone(tmp_path):
    """A checkpoint that got the number of a dead log."""
    old = tmp_path / "raylet.out"
    old.write_text("one\ntwo\n")
    with Tailer([tmp_path], describe, max_open=0) as tailer:
        for _ in range(3):
            lines_of(tailer)
        old.rename(tmp_path / "x.not")
        (tmp_path / "x.not").write_text("other\n")

        assert lines_of(tailer, 1.0) == []
        assert tailer.files() == 0


def test_a_sweep_reads_only_what_changed(tmp_path):
    """A thousand quiet files cost their look-up and nothing else; a change of any kind is read."""
    for i in range(20):
        (tmp_path / f"{i}.out").write_text("one\n")
    with Tailer([tmp_path], describe) as tailer:
        assert len(lines_of(tailer)) == 20
        tailer.close()
        tailer.poll(1.0)
        assert tailer._held == 0
        (tmp_path / "3.out").write_text("two\n")

        assert lines_of(tailer) == ["two"]


def test_a_sweep_goes_on_from_poll_to_poll(tmp_path):
    """It holds nobody up: each poll looks at a part, and what is named is read at once."""
    for i in range(3 * SLICE):
        (tmp_path / f"{i}.out").write_text("one\n")
    with Tailer([tmp_path], describe) as tailer:
        tailer.begin_sweep()
        met = [tailer.files()]
        (tmp_path / "late.out").write_text("late\n")
        chunks = tailer.poll(0.0, dirty={str(tmp_path / "late.out")})
        met.append(tailer.files())
        while tailer.is_sweeping():
            lines_of(tailer, dirty=())

    assert "late\n" in [c.data.decode() for c in chunks]
    assert met == [0, SLICE + 1]
    assert tailer.files() == 3 * SLICE + 1


def test_an_empty_file_is_not_described(tmp_path):
    """Most streams of workers stay empty; asking what they are at each sweep is not free."""
    asked: list[str] = []
    (tmp_path / "a.out").touch()

    def asking(path: str) -> Source | None:
        asked.append(path)
        return describe(path)

    with Tailer([tmp_path], asking) as tailer:
        tailer.poll(0.0)
        assert asked == []
        (tmp_path / "a.out").write_text("one\n")

        assert lines_of(tailer) == ["one"]


def test_what_is_written_all_the_time_is_caught_up_with(tmp_path):
    """History is what was there when a file was met, not what came since."""
    log = tmp_path / "a.out"
    log.write_text("old\n")
    with Tailer([tmp_path], describe) as tailer:
        (chunk,) = tailer.poll(0.0)
        assert not tailer.caught_up()
        with log.open("a") as out:
            out.write("new\n")
        tailer.commit(chunk, chunk.end)
        tailer.poll(0.0)

        assert tailer.lag_bytes() == 4
        assert tailer.caught_up()
