"""A stream without its layers: each line knows which it was, whatever pieces it comes in."""

import io
from datetime import timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch import unwrapped
from raywatch.model import Source
from raywatch.pipeline import load_engine
from raywatch.unwrapped import Unwrapped, examine_unwrapped

ENGINE = load_engine()
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nValueError: bad\n'
PIECES = [
    "step 1\n",
    TRACE,
    TRACE.replace("\n", " ") + "\n",
    "\r\n",
    "a\rb\n",
    "\n",
    "&gt; x\n",
    "ü\n",
    "> q\n",
    "```\n",
]


def whole(stream):
    """All of it."""
    out, buffer = bytearray(), memoryview(bytearray(1000))
    while size := stream.readinto(buffer):
        out += buffer[:size]
    return out.decode()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(1, 60))
def test_pieces_change_nothing(pieces, size):
    """The same text, lines and count for any size of block; the layers are guessed from what is there at first."""
    data = "plain words\n" * 40 + "".join(pieces)
    expected = Unwrapped(io.BytesIO(data.encode()))
    text = whole(expected)
    whole_block = unwrapped._BLOCK
    unwrapped._BLOCK = 480 + size
    try:
        stream = Unwrapped(io.BytesIO(data.encode()))
        assert whole(stream) == text
    finally:
        unwrapped._BLOCK = whole_block
    count = text.count("\n") + 1
    assert [stream.line_there(n) for n in range(1, count)] == [
        expected.line_there(n) for n in range(1, count)
    ]
    assert stream.lines == data.count("\n")


def test_a_healthy_text_is_given_as_it_is():
    """Byte for byte, and not looked at line by line."""
    data = b"[2026-11-24 12:00:00,123 I 1 1] (raylet) a.cc:1: \xff healthy\n" * 50_000 + b"no end"
    stream = Unwrapped(io.BytesIO(data))
    out = bytearray()
    buffer = memoryview(bytearray(100_000))
    while size := stream.readinto(buffer):
        out += buffer[:size]

    assert bytes(out) == data
    assert stream.lines == 50_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_windows(encoding):
    """Byte order marks, two bytes a character."""
    stream = Unwrapped(io.BytesIO(TRACE.replace("\n", "\r\n").encode(encoding)))

    assert whole(stream).replace("\r", "") == TRACE


def test_layers_date_and_number_what_they_hold():
    """A container's log: the time is the layer's, the line is the file's, parts of a line are one."""
    text = (
        "2026-11-23T07:09:01Z stdout F step\n2026-11-23T07:09:03Z stderr P torch.OutOfMemory\n"
        "2026-11-23T07:09:03Z stderr F Error: CUDA out of memory. Tried to allocate 1 GiB\n"
        "2026-11-23T07:09:09Z stdout F step\n"
    )
    seen = examine_unwrapped(
        ENGINE, Source("x", "unknown"), Unwrapped(io.BytesIO(text.encode())), timezone.utc
    )
    (finding,) = seen.findings

    assert (finding.class_id, finding.at, finding.dated) == ("cuda_oom", 1795417743.0, True)
    assert finding.evidence.line == 2
    assert finding.evidence.text.startswith("torch.OutOfMemoryError: CUDA")
