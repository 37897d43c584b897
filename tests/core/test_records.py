"""The record around a hit: whole, dated, without prefixes."""

import gc
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


def test_the_traceback_of_another_process_is_a_record_with_its_own_cause():
    """The task's frames and its exception belong to the error that Ray raises for it."""
    data = (
        b"Traceback (most recent call last):\n  File 'a', line 1, in <module>\n"
        b"ray.exceptions.RayTaskError(ValueError): ray::f() (pid=411, ip=10.77.0.1)\n"
        b"  File 'b', line 2, in f\nValueError: boom\nnext\n"
    )
    record = record_at(data, b"ray.exc")

    assert record.text == data.decode().removesuffix("\nnext\n")
    assert record_at(data, b"ValueError: boom").text == record.text


def test_ranks_that_write_between_each_other_have_a_record_each():
    """Two tracebacks line by line: neither text holds a line of the other, and no hit is read twice."""
    data = (
        b"[rank0]: Traceback (most recent call last):\n[rank1]: Traceback (most recent call last):\n"
        b"[rank0]:   File 'a', line 1, in f\n[rank1]:   File 'b', line 1, in f\n"
        b"[rank1]: KeyError: 'x'\n[rank0]: ValueError: bad\n"
    )
    hits = []
    for number, needle in enumerate(
        [b"[rank0]: Tr", b"[rank1]: Tr", b"[rank1]: Key", b"[rank0]: Val"]
    ):
        at = data.index(needle)
        hits.append(Hit(number, at, data.index(b"\n", at)))
    chunk = Chunk(Source("f", "job"), FileId(0, 0), 100, 11, data, 0.0)
    zero, one = join(chunk, hits, UTC)

    assert (
        zero.text == "Traceback (most recent call last):\n  File 'a', line 1, in f\nValueError: bad"
    )
    assert one.text == "Traceback (most recent call last):\n  File 'b', line 1, in f\nKeyError: 'x'"
    assert (zero.signatures, one.signatures) == ((0, 3), (1, 2))
    assert (zero.line, one.line, zero.hit_numbers, one.hit_numbers) == (11, 12, (11, 16), (12, 15))
    assert (zero.offset, zero.end) == (one.offset, one.end) == (100, 100 + len(data) - 1)


@pytest.mark.parametrize(
    ("prefix", "fields"),
    [
        ("(MapBatches(f, x=[1])->Write pid=7, ip=10.0.0.1) ", {"stream_pid": "7"}),
        ("(pid=7) ", {"stream_pid": "7"}),
        ("(raylet, ip=10.0.0.1) ", {"stream_name": "raylet", "stream_ip": "10.0.0.1"}),
        ("(autoscaler +5m2s) ", {"stream_name": "autoscaler"}),
        ("(RayTrainWorker pid=7) [rank3]: ", {"stream_pid": "7", "stream_rank": "3"}),
        ("[default3]:", {"stream_rank": "3"}),
        ("[1,3]<stderr>: ", {"stream_slot": "3"}),
        ("\x1b[36m(A pid=7)\x1b[0m ", {"stream_pid": "7"}),
    ],
)
def test_the_mark_of_a_process_is_no_part_of_its_words(prefix, fields):
    """It is told in fields, hides neither a date nor a traceback, and repeats are counted there."""
    data = (
        f"{prefix}step\n{prefix}2026-11-23 07:21:01,500\tERROR a.py:1 -- boom [repeated 3x across cluster]\n"
        f"{prefix}Traceback (most recent call last):\n{prefix}  File 'a', line 1\n{prefix}KeyError: 1\n"
        f"{prefix}2026-11-23 07:21:02,500\tINFO a.py:1 -- next\n"
    ).encode()
    record = record_at(data, b"boom", component="job")

    assert record.text.splitlines()[0].endswith("ERROR a.py:1 -- boom")
    assert [line.strip() for line in record.text.splitlines()[1:]] == [
        "Traceback (most recent call last):",
        "File 'a', line 1",
        "KeyError: 1",
    ]
    assert record.at == pytest.approx(1795418461.5)
    assert record.fields.items() >= (fields | {"repeated": "3"}).items()


def test_an_exception_group_is_one_record():
    """Its margin and its closing line are parts of it, what follows is not."""
    data = (
        b"step\n  + Exception Group Traceback (most recent call last):\n  |   File 'a', line 1, in f\n"
        b"  | ExceptionGroup: unhandled errors (1 sub-exception)\n  +-+---------------- 1 ----------------\n"
        b"    | Traceback (most recent call last):\n    |   File 'b', line 1, in g\n    | ValueError: bad\n"
        b"    +------------------------------------\nstep\n"
    )
    record = record_at(data, b"ValueError")

    assert record.text == data.decode().strip("\n").removeprefix("step\n").removesuffix("\nstep")


def test_a_logger_that_writes_a_traceback_dates_it():
    """The line right above it, also in a text that is not dated throughout; no other."""
    data = (
        b"2026-11-23 07:21:01,500\tWARNING a.py:1 -- retrying\nTraceback (most recent call last):\n"
        b"  File 'a', line 1, in f\nKeyError: 'x'\nstep\nTraceback (most recent call last):\nValueError: b\n"
    )
    record = record_at(data, b"KeyError")

    assert (record.at, record.level) == (pytest.approx(1795418461.5), "WARNING")
    assert record_at(data, b"ValueError").at is None


def test_a_traceback_right_behind_another_is_a_record_of_its_own():
    """Of one process, whatever others wrote between them; only a chain joins."""
    trace = (
        b"[rank0]: Traceback (most recent call last):\n[rank0]:   File 'a'\n[rank0]: KeyError: %d\n"
    )
    data = trace % 1 + b"[rank1]: step\n" + trace % 2

    assert record_at(data, b"KeyError: 1").text.endswith("KeyError: 1")
    assert record_at(data, b"KeyError: 2").text.startswith("Traceback")
    assert record_at(data, b"KeyError: 2").line == 15


def test_what_ray_tells_below_an_exception_belongs_to_it():
    """Lines with a tab say whom it is about, also where only they are hit."""
    data = (
        b"step\nTraceback (most recent call last):\n  File 'a', line 1\n"
        b"ray.exceptions.ActorDiedError: The actor died because its node has died. Node Id: ab12\n"
        b"\tthe actor's node was preempted: spot interruption notice\nstep\n"
    )

    assert record_at(data, b"preempted").text == data.decode().removeprefix("step\n").removesuffix(
        "\nstep\n"
    )
    assert record_at(b"step: 3\n\ttab\n", b"tab").text == "\ttab"


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"step\nTraceback (most recent call last):\n  File 'a', line 1\nKeyError: 1\n", "text"),
        (b"2026-11-23 10:00:00,123\tERROR a.py:1 -- it failed\nKeyError: 1\n", "python"),
        (b"(f pid=7) I1123 10:00:00.123456  1 a.cc:1] KeyError: 1\n", "text"),
    ],
)
def test_nothing_of_it_is_left(data, form):
    """A ring of references keeps a megabyte until garbage is looked for, which the daemon does at its leisure."""
    gc.collect()
    gc.disable()
    try:
        known = set(map(id, _ours()))
        record_at(data, b"KeyError", form)
        assert not [o for o in _ours() if id(o) not in known]
    finally:
        gc.enable()


def _ours():
    return [o for o in gc.get_objects() if str(type(o).__module__).startswith("raywatch")]


CPP_EVENT = (
    b'{"custom_fields":{"ip":"10.77.0.3","node_id":"5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f"},'
    b'"event_id":"6f85e9ca6004e20c2bbdc1a13a50feafb6d2","host_name":"vm","label":"RAY_NODE_REMOVED","message":'
    b'"The node with node id: 5192 has been marked dead. This can happen when a \\t(1) raylet crashes \\\\n\\t(2)",'
    b'"pid":"10","severity":"ERROR","source_type":"GCS","timestamp":1795417743}\n'
)
PYTHON_EVENT = (
    b'{"event_id": "4c1BAE3AE3A6b2Fe60f7CD83f56CB6bb8614", "source_type": "JOBS", "source_hostname": "vm", '
    b'"source_pid": 321, "severity": "ERROR", "message": "Completed a ray job exit3 with a status FAILED.\\nWhy", '
    b'"timestamp": "1795418346", "custom_fields": {"submission_id": "exit3"}, "label": ""}\n'
)


@pytest.mark.parametrize(
    ("line", "at", "named", "text"),
    [
        (
            CPP_EVENT,
            1795417743.0,
            {
                "node_id": "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f",
                "ip": "10.77.0.3",
            },
            "raylet crashes \n\t(2)",
        ),
        (PYTHON_EVENT, 1795418346.0, {"submission_id": "exit3"}, "FAILED.\nWhy"),
    ],
    ids=["C++", "Python"],
)
def test_an_event_of_either_writer_is_dated_and_names_whom_it_is_about(line, at, named, text):
    """Numbers or texts as times, line breaks as themselves or as two characters; the writer's own pid is nobody's."""
    record = record_at(line, b"event_id", "event", "event")

    assert (record.at, record.level) == (at, "ERROR")
    assert named.items() <= record.fields.items()
    assert "pid" not in record.fields
    assert text in record.text
