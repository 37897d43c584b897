"""Files -> findings as the daemon does it: at once, and once."""

from datetime import timezone
from pathlib import Path

import pytest

from raywatch.collect.raylogs import describe
from raywatch.collect.tail import Cursor, Tailer
from raywatch.model import Chunk, FileId
from raywatch.pipeline import examine, load_engine

ENGINE = load_engine()
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.10 GiB "
    "of which 1.40 GiB is free.\n"
)
TRACE = 'Traceback (most recent call last):\n  File "train.py", line 8, in loop\n    step()\n'


class Follower:
    """A tailer and what was found so far; `now` is the test's."""

    def __init__(self, log: Path, cursors: tuple[Cursor, ...] = ()) -> None:
        self.log, self.early = log, True
        self.tailer = Tailer([log.parent], describe, cursors)
        self.found: list[tuple[str, int]] = []
        self.cursors: tuple[Cursor, ...] = cursors

    def write(self, text: str, now: float) -> list[tuple[str, int]]:
        """Append and look; return the classes and lines that are new."""
        with self.log.open("a") as out:
            out.write(text)
        return self.look(now)

    def look(self, now: float) -> list[tuple[str, int]]:
        """Read, examine, commit."""
        news = []
        for chunk in self.tailer.poll(now):
            seen = examine(ENGINE, chunk, timezone.utc, now, early=self.early)
            self.tailer.commit(chunk, seen.upto, told=seen.told)
            news += [(f.class_id, f.evidence.line) for f in seen.findings]
        self.cursors = tuple(self.tailer.cursors()) or self.cursors
        self.found += news
        return news


def follow(tmp_path: Path, name: str) -> Follower:
    """A log that has been there for a while."""
    log = tmp_path / name
    log.write_text("started\n")
    follower = Follower(log)
    for now in (0.0, 1.0):
        follower.look(now)
    return follower


WORKER = f"worker-{7:056x}-ffffffff-12.err"


def test_what_more_lines_cannot_change_is_told_at_once_and_once(tmp_path):
    """A traceback on a worker's error stream: no waiting for its end, no second count when that came."""
    follower = follow(tmp_path, WORKER)

    assert follower.write(TRACE + OOM, 2.0) == [("cuda_oom", 5)]
    assert [follower.look(now) for now in (2.1, 2.3, 3.0)] == [[], [], []]
    assert follower.write("goes on\n", 4.0) == []
    follower.tailer.close()


def test_what_was_told_early_is_not_told_again_by_the_next_daemon(tmp_path):
    """The cursor stands at the record's start and says up to which line it was told."""
    follower = follow(tmp_path, WORKER)
    follower.write(TRACE + OOM, 2.0)
    follower.tailer.close()
    (cursor,) = follower.cursors
    again = Follower(follower.log, (cursor,))

    assert (cursor.line, cursor.told) == (1, 5)
    assert [again.look(now) for now in (10.0, 11.0)] == [[], []]
    again.tailer.close()


def test_a_record_that_goes_on_tells_what_else_is_in_it(tmp_path):
    """Another class behind the first is news, the same class is not."""
    follower = follow(tmp_path, WORKER)
    follower.write(TRACE + OOM, 2.0)
    more = "\nDuring handling of the above exception, another exception occurred:\n\n" + TRACE
    follower.write(more + OOM, 2.1)
    follower.write(more + "OSError: [Errno 28] No space left on device\n", 2.2)
    follower.look(9.0)
    follower.tailer.close()

    assert [name for name, _ in follower.found] == ["cuda_oom", "disk_full"]


def test_what_more_lines_may_take_back_waits_for_its_end(tmp_path):
    """An exception of a job may turn out to be Ray's own (`unless`)."""
    follower = follow(tmp_path, "job-driver-raysubmit_1.log")

    assert follower.write(TRACE + "ValueError: no such layer\n", 2.0) == []
    assert follower.look(2.1) == []
    assert follower.look(2.5) == [("user_exception", 5)]
    follower.tailer.close()


def test_a_file_that_begins_anew_is_told_anew(tmp_path):
    """Line numbers of the old content silence nothing in the new one."""
    follower = follow(tmp_path, WORKER)
    follower.write("\n" * 9 + OOM, 2.0)
    follower.log.write_text("new\n" + OOM)

    assert follower.look(3.0) == [("cuda_oom", 2)]
    follower.tailer.close()


@pytest.mark.parametrize("pause", [0.0, 9.0])
def test_telling_early_changes_nothing_but_the_time(tmp_path, pause):
    """Each line in a poll of its own, with or without the time to end a record between them."""
    found = []
    for early in (True, False):
        (tmp_path / str(early)).mkdir()
        follower = follow(tmp_path / str(early), WORKER)
        follower.early = early
        now = 2.0
        for line in (TRACE + OOM + TRACE + OOM).splitlines(keepends=True):
            follower.write(line, now)
            now += pause
            follower.look(now)
        follower.look(now + 9)
        follower.tailer.close()
        found.append(follower.found)

    assert found[0] == found[1] != []


def test_a_json_line_is_whole():
    """In whatever file it stands, nothing more can belong to it: it is not held until the file is still."""
    line = b'{"asctime": "2026-11-24 12:00:00,123", "levelname": "ERROR", "message": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."}\n'
    for name in ("job-driver-x.log", f"train/ray-train-app-worker-{'a' * 56}.log"):
        source = describe(f"/session_1/logs/{name}")
        assert source is not None
        chunk = Chunk(source, FileId(1, 1), 0, 1, line, 1.0)

        seen = examine(ENGINE, chunk, timezone.utc)
        assert ([f.class_id for f in seen.findings], seen.upto) == (["cuda_oom"], chunk.end)
