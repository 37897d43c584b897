"""What a line begins with: Ray's record heads, the marks of one of several processes, the parts of a traceback."""

from __future__ import annotations

import re

CPP = re.compile(
    rb"\[(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[TDIWECF]) \d+ \d+\] ?(?:\((?P<part>\w+)\) )?"
)
PYTHON = re.compile(rb"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})[\t ]+(?P<level>[A-Z]{4,8})\b")
_ABSL = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
# What opens a record, by its first byte: of most lines that is all that is looked at.
_OPENERS = {
    b"[": CPP,
    b"{": re.compile(rb'\{"'),
    **dict.fromkeys((b"%d" % n for n in range(10)), PYTHON),
    **dict.fromkeys((b"I", b"W", b"E", b"F"), _ABSL),
}
ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
# What stands before the lines of one of several processes in a file; once more on raw bytes, colours included. Ray
# names an actor by its repr, which may hold anything (`(MapBatches(f)->Write pid=7)`): then the pid ends it.
_PREFIX = (
    r"(?:\((?=[A-Za-z_])(?P<name>[A-Za-z_][\w.:<>-]{0,200}|[A-Za-z_][^\n]{0,200}?(?= pid=\d))?(?: \+[^\s)]+)?"
    r"(?: ?pid=(?P<pid>\d+))?(?:, ip=(?P<ip>[\w.:-]+))?\)"
    # torchrun --tee, PyTorch's excepthook, mpirun --tag-output, horovodrun
    r"|\[(?:rank|default|trainer)(?P<rank>\d+)\]:|\[(?:\d+,)?(?P<slot>\d+)\]<std(?:err|out)>:)"
)
STREAM = re.compile(rf"(?:{_PREFIX} ?)+")
MARKS = ("(", "[")  # what it begins with
_COLOUR = r"(?:\x1b\[[0-9;?]*[A-Za-z])*"
STREAM_BYTES = re.compile(
    rf"(?:{_COLOUR}{re.sub(r'[?]P<[a-z]+>', '?:', _PREFIX)}{_COLOUR} ?)+".encode()
)
# A traceback begins, or goes on in another process.
_HEADER = (
    r"[ |+]*(?:Exception Group )?Traceback \(most recent call last\):"
    r"|ray\.exceptions\.Ray(?:Task|Actor)Error[(:]|ray::|Exception raised in creation task: |Exception ignored (?:in|on)\b"
    r"|(?:ray\.exceptions\.)?ActorDiedError: The actor died because of an error raised in its creation task"
)
# What leads from one traceback of a record to the next.
_CHAIN = (
    r"During handling of the above exception|The above exception was the direct cause"
    r"|\[Rank [\d,]+ Error Snippet"
)
HEADER = re.compile(_HEADER)
CHAIN = re.compile(_CHAIN)
# A line that may belong to the lines around it: indented, blank, or a part of a traceback.
_CONTINUES = re.compile(rf"[\s|^\x1b]|\Z|{_HEADER}|{_CHAIN}".encode())


def starts_record(line: bytes) -> bool:
    """Say whether a line opens a record of its own: a dated prefix or a JSON object."""
    opener = _OPENERS.get(line[:1])
    return opener is not None and opener.match(line) is not None


def continues(data: bytes, at: int = 0) -> bool:
    """Say whether the line of undated text whose own words begin there may belong to the lines around it."""
    return _CONTINUES.match(data, at) is not None


def is_indented(text: str) -> bool:
    """Say whether a line's text goes on with what stands above: indented or blank."""
    return text[:1] in (" ", "\t", "|", "^") or not text.strip()


def bare(line: str) -> str:
    """Take a stream prefix off the start of a line without colours."""
    match = STREAM.match(line) if line[:1] in MARKS else None
    return line[match.end() :] if match else line
