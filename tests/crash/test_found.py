"""What lives that ended by SIGKILL found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raywatch.collect.raylogs import describe
from raywatch.collect.tail import Cursor, Tailer
from raywatch.model import FileId
from tests.crash.writer import broken_ring

NOW = 1_800_000_000.0
END = "exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits with a connection error code 2.\n"


def read(tailer: Tailer, now: float) -> bytes:
    seen = b""
    for _ in range(3):
        for chunk in tailer.poll(now):
            seen += chunk.data
            tailer.commit(chunk, chunk.end)
        now += 5
    return seen


def test_a_number_that_another_file_was_given_is_seen_though_its_lines_end_alike(tmp_path):
    """ext4 gives a new file the number of the one deleted last; lines of the GCS all end in the same 64 bytes."""
    logs = tmp_path / "logs"
    logs.mkdir()
    first = "".join(
        f"[2026-11-24 00:00:0{n},000 W 1 1] worker id = {n:056x}, {END}" for n in range(3)
    )
    (logs / "gcs_server.out").write_text(first)
    with Tailer([logs], describe) as tailer:
        assert read(tailer, NOW) == first.encode()
        (cursor,) = tailer.cursors()
    second = "".join(
        f"[2026-11-24 00:01:0{n},000 W 1 1] worker id = {n + 9:056x}, {END}" for n in range(4)
    )
    (logs / "gcs_server.out").unlink()
    (logs / "gcs_server.out").write_text(second)
    found = (logs / "gcs_server.out").stat()
    cursor = replace(cursor, file=FileId(found.st_dev, found.st_ino))
    with Tailer([logs], describe, [cursor]) as tailer:
        assert read(tailer, NOW + 60) == second.encode()


def told_early(folder: Path, text: str) -> Cursor:
    """The cursor of a log of which all was told but nothing is whole yet."""
    path = folder / f"worker-{'b' * 56}-03000000-501.err"
    path.write_text(text)
    with Tailer([folder], describe) as tailer:
        (chunk,) = tailer.poll(NOW)
        tailer.commit(chunk, 0, told=text.count("\n"))
        (cursor,) = tailer.cursors()
    return cursor


def test_what_was_told_of_a_file_is_not_told_of_another_that_got_its_number(tmp_path):
    """Nothing of it was read for good: only what was told can show that it is another."""
    logs = tmp_path / "logs"
    logs.mkdir()
    cursor = told_early(logs, broken_ring("x").text)
    Path(cursor.path).unlink()
    path = logs / f"worker-{'a' * 56}-02000000-500.err"
    path.write_text(broken_ring("y").text)
    found = path.stat()
    cursor = replace(cursor, file=FileId(found.st_dev, found.st_ino))
    assert cursor.told > 0
    with Tailer([logs], describe, [cursor]) as tailer:
        assert [c.told for c in tailer.poll(NOW)] == [0]


def test_what_was_told_of_a_file_is_not_told_again(tmp_path):
    """After a restart; and after one more, with what the store of an older version kept."""
    cursor = told_early(tmp_path, broken_ring("x").text)
    for kept in (cursor, replace(cursor, told_crc=-1)):
        with Tailer([tmp_path], describe, [kept]) as tailer:
            assert [c.told for c in tailer.poll(NOW)] == [cursor.told]


def test_what_was_told_of_a_file_is_not_told_of_what_it_is_filled_with_again(tmp_path):
    """While it is open; nothing before the cursor could show it."""
    path = tmp_path / f"worker-{'b' * 56}-03000000-501.err"
    path.write_text(broken_ring("x").text)
    with Tailer([tmp_path], describe) as tailer:
        (chunk,) = tailer.poll(NOW)
        tailer.commit(chunk, 0, told=3)
        path.write_text(broken_ring("y").text.replace("Traceback", "TRACEBACK"))
        assert [c.told for c in tailer.poll(NOW + 1)] == [0]
