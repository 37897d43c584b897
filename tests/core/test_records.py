"""The record around a hit: whole, dated, without prefixes."""

from datetime import timezone

import pytest

from raywatch.core.records import join
from raywatch.model import Chunk, FileId, Hit, Source

UTC = timezone.utc


def record_at(data: bytes, needle: bytes, log_format="text", component="worker"):
    """Join the one record around the line of `needle`."""
    at = data.index(needle)
    start = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at)
    hit = Hit(0, start, len(data) if end < 0 else end)
    chunk = Chunk(Source("f", component, log_format), FileId(0, 0), 100, 11, data, 0.0)
    (record,) = join(chunk, [hit], UTC)
    return record


def test_a_dated_record_takes_its_continuation_lines():
    """Lines without a prefix belong to the record above them."""
    data = (
        b"[2026-11-23 07:21:01,445 I 10 10] (gcs_server) a.cc:1: before\n"
        b"[2026-11-23 07:21:01,500 I 10 10] (gcs_server) b.cc:2: request =\nreason: R\n node_id=ab12\n"
        b"[2026-11-23 07:21:02,000 I 10 10] (gcs_server) c.cc:3: after\n"
    )
    record = record_at(data, b"reason: R", "cpp", "gcs")

    assert record.text.endswith("request =\nreason: R\n node_id=ab12")
    assert record.fields["node_id"] == "ab12"
    assert (record.line, record.hit_numbers) == (12, (13,))
    assert record.at == pytest.approx(1795418461.5)


def test_a_traceback_is_one_record_with_what_it_was_caused_by():
    """Chained tracebacks of one stream are joined; another stream's lines between them are left out of its ends."""
    data = (
        b"step 1\nTraceback (most recent call last):\n  File 'a', line 1\nKeyError: 'x'\n\n"
        b"During handling of the above exception, another exception occurred:\n\n"
        b"Traceback (most recent call last):\n  File 'b', line 2\nValueError: bad\nstep 2\n"
    )
    record = record_at(data, b"ValueError")

    assert record.text.startswith("Traceback (most recent call last):\n  File 'a'")
    assert record.text.endswith("ValueError: bad")


def test_stream_prefixes_and_colours_are_taken_off():
    """`(Name pid=..)` names the writer and is no part of the message; an exception in brackets is."""
    data = (
        b"\x1b[36m(RayTrainWorker pid=714)\x1b[0m ray.exceptions.RayTaskError(ValueError): boom\n"
    )
    record = record_at(data, b"boom", component="job")

    assert record.text == "ray.exceptions.RayTaskError(ValueError): boom"
    assert record.fields["stream_pid"] == "714"


def test_a_json_line_is_read():
    """Message, ids and the exact time come out of Ray Train's JSON lines."""
    data = b'{"message": "Error:\\nValueError: x", "levelname": "ERROR", "run_name": "r", "worker_id": "ab", "timestamp_ns": 1795418021840219887}\n'
    record = record_at(data, b"ValueError", "json", "train")

    assert record.text == "Error:\nValueError: x"
    assert (record.level, record.fields["run_name"], record.fields["worker_id"]) == (
        "ERROR",
        "r",
        "ab",
    )
    assert record.at == pytest.approx(1795418021.84)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00 x\n", b'{"message": \n', b"[2026-99-99 07:21:01,445 I 1 1] x\n", b"x"]
)
def test_bad_bytes_are_read_without_harm(data):
    """Invalid UTF-8, broken JSON and impossible dates give a record without a time."""
    assert record_at(data, data.strip()[-1:]).at is None
