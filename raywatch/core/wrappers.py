"""What others put around the lines of a log: containers, journals, launchers, terminals, web pages, people who paste.

Which of them a text has is guessed once, from its first lines: each *layer* stands at the start of most of them. Its
time is kept for lines that have none of their own; whose line it is becomes a mark that `prefixes` knows.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from raywatch.core.prefixes import STREAM

MAX_LINES = 400  # that one line can become
_SAMPLE = 400  # lines that are looked at
_MOST = 0.6  # of the lines have a layer that is one
_DEEP = 4  # layers in one another
_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)"
_BSD = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?"
# A host and a program, not a level and a module (Rust's tracing).
_UNIT = r"(?!(?:ERROR|DEBUG|TRACE|FATAL) )[\w.-]+ [\w.@/()-]{1,80}(?:\[\d+\])?: "


class _Layer(NamedTuple):
    """What may stand before each line, and which part of the lines must have it.

    `below`: only behind another layer; alone it looks like any line of two words and a colon.
    """

    pattern: re.Pattern[str]
    share: float
    below: bool = False


_LAYERS = tuple(
    _Layer(re.compile(pattern), share, below=pattern is _UNIT)
    for pattern, share in (
        (r"(?:&gt; ?|> ?)+", _MOST),  # quoted in a mail or an issue
        (rf"(?P<at>{_ISO}) std(?:out|err) (?P<tag>[FP])(?: |$)", _MOST),  # Kubernetes' CRI
        (r"\[pod/(?P<who>[\w./-]+)\] ?", _MOST),  # kubectl logs --prefix
        (r"(?P<who>[A-Za-z][\w.-]*[-_]\d+) +\| ?", _MOST),  # docker compose
        (
            r"(?P<who>[A-Za-z][\w.-]*[-_]\d+|\d{1,3}(?:\.\d{1,3}){3}): ",
            0.9,
        ),  # pdsh (DeepSpeed), pssh
        (
            r"[^\t\n]{1,200}\t[^\t\n]{1,200}\t(?=\ufeff?\d{4}-\d\d-\d\dT)",
            _MOST,
        ),  # gh run view --log
        (r"<\d{1,3}>1 (?P<at>\S+) \S+ \S+ \S+ \S+ (?:-|(?:\[[^\]\n]*\])+) ?\ufeff?", _MOST),
        (rf"(?:<\d{{1,3}}>)?{_BSD} {_UNIT}", _MOST),  # syslog, journalctl
        (rf"(?:kern|user|daemon|syslog|auth) *:\w+ *: (?=\[|{_ISO})", _MOST),  # dmesg --decode
        (r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ", _MOST),  # dmesg
        (
            r"\[(?P<c>[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})\] ",
            _MOST,
        ),  # dmesg --ctime
        (
            rf"\ufeff?\[?(?P<at>{_ISO})\]?(?:[ \t]|$)",
            0.6,
        ),  # CloudWatch, Loki, kubectl --timestamps, CI
        (r"\[(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?)\] ", _MOST),  # ts, tmux, launchers
        (r"(?P<ms>1[5-9]\d{11})[ \t]", _MOST),  # aws logs
        (r'\{\w+="[^}\n]{0,400}\}[ \t]', _MOST),  # logcli
        (_UNIT, 0.95),  # the rest of journalctl --output=short-iso
        (r"(?P<mark>\d{1,4}): ", 0.9),  # srun --label
        (r" *(?P<number>\d{1,6})(?:[:|│] ?|\t)", 0.9),  # an editor's or grep's line numbers
    )
)
_NUMBERED = 3  # lines at least, that a column of numbers is believed
_DOCKER = re.compile(r'\{"(?:log|stream|time)": ?"(?=.*"log": ?"|[^\n]*"stream")')
# A logger that repeats its head on each line of a traceback (vLLM).
_LOGGER = re.compile(
    r"(?:ERROR|CRITICAL|WARNING|INFO) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[\w./-]+:\d+\]|[\w./-]+:\d+\])"
    r"(?:$| (?=\s|Traceback|During handling|The above exception|(?:[\w.]+(?:Error|Exception)\b)))"
)
_BEFORE_LOGGER = re.compile(r"[\w ()=,.:\[\]-]*$")
# A logger that relays what a rank printed.
_RELAYED = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - [\w.-]{1,80} - [A-Z]{4,8} - (?=\[rank\d{1,6}\]: )"
)
_ENTITY = re.compile(r"&(?:gt|lt|quot|amp|apos|nbsp|#x?[0-9a-fA-F]{1,6});")
# Colours, also those whose escape character was lost on the way.
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|(?<!\w)\[\d{1,2}(?:;\d{1,3}){0,4}m|\[0m")
_BAR = re.compile(r"((?:it/s|s/it|[kMG]?B/s|\?it/s)(?:, [^\]\n]{0,200})?\])[ \t]*(?=[A-Za-z(\[])")
_FLAT = re.compile(
    r'Traceback \(most recent call last\):[ \t]*\S.*|.*?\bFile "[^"\n]{1,300}", line \d+.*?\bFile "'
)
_BREAKS = re.compile(
    r' +(?=File "[^"\n]{1,300}", line \d+)'
    r"| +(?=Traceback \(most recent call last\):|During handling of the above exception|The above exception was the dir)"
    r"|(?<!except) +(?=(?:[A-Za-z_]\w{0,60}\.){0,8}[A-Z]\w{0,80}(?:Error|Exception)(?:\(\w{1,80}\))?: )"
)
_TRACE = "Traceback (most recent call last):"
_LEADS = re.compile(
    r"[^\s|+].*:? Traceback \(most(?<!Exception Group Traceback \(most)(?<!traceback : Traceback \(most)"
)
_FENCE = re.compile(r"\s*(?:```|~~~)[\w-]*\s*$")


class Line(NamedTuple):
    """What a line is without its layers. `at`: unix seconds that a layer tells; `goes_on`: the next line is its rest."""

    texts: Sequence[str]
    at: float | None = None
    goes_on: bool = False


class Wrapping:
    """The layers of one text."""

    def __init__(self, sample: str) -> None:
        """`sample`: the text's beginning."""
        lines = [r for r in sample.split("\n")[:_SAMPLE] if r.strip() and not _FENCE.match(r)]
        self._docker = _share(lines, _DOCKER) >= _MOST
        if self._docker:
            lines = [_logged(r)[0].rstrip("\n") for r in lines]
        self._indent = _common_indent(lines)
        lines = [r[self._indent :] for r in lines]
        self._layers: list[re.Pattern[str]] = []
        who: set[str] = set()
        for _ in range(_DEEP):
            told = (la for la in _LAYERS if self._layers or not la.below)
            layer = next((la.pattern for la in told if _is_around(lines, la)), None)
            if layer is None:
                break
            self._layers.append(layer)
            who |= {m["who"] for r in lines if "who" in layer.groupindex and (m := layer.match(r))}
            lines = [r[m.end() :] if (m := layer.match(r)) else r for r in lines]
            lines = [r for r in lines if r.strip()]
        self._several = len(who) > 1

    @property
    def layers(self) -> int:
        """How many were found."""
        return len(self._layers) + self._docker + bool(self._indent)

    def off(self, line: str) -> Line:
        """Take the layers off one line, and give back the line ends that it lost. Never raises."""
        at: float | None = None
        if self._docker and _DOCKER.match(line):
            line, at = _logged(line)
        if self._indent and line[: self._indent].isspace():
            line = line[self._indent :]
        goes_on, marks = not line.endswith("\n") if self._docker else False, ""
        line = line.rstrip("\n")
        for layer in self._layers:
            match = layer.match(line)
            if match is None:
                continue
            found = match.groupdict()
            line = line[match.end() :]
            at = at or _time_of(found)
            goes_on = goes_on or found.get("tag") == "P"
            if found.get("who") and self._several:
                who = found["who"].replace("/", ".")
                marks += f"(host, ip={who}) " if who[0].isdigit() else f"({who}) "
            if found.get("mark"):
                marks += f"[rank{found['mark']}]: "
        texts = _unfolded(_plain(line))
        return Line([marks + t for t in texts] if marks else texts, at, goes_on)


def _share(lines: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(bool(pattern.match(r)) for r in lines) / len(lines) if lines else 0.0


def _is_around(lines: Sequence[str], layer: _Layer) -> bool:
    """Say whether a layer stands before the lines. Numbers must count: else they are ranks, or data."""
    if _share(lines, layer.pattern) < layer.share:
        return False
    found = [m for r in lines if (m := layer.pattern.match(r))]
    name = next((n for n in ("mark", "number") if n in layer.pattern.groupindex), "")
    if not name:
        return True
    numbers = [int(m[name]) for m in found]
    counts = all(b > a for a, b in pairwise(numbers))
    return len(numbers) >= _NUMBERED and counts == (name == "number")


def _common_indent(lines: Sequence[str]) -> int:
    return min((len(r) - len(r.lstrip(" ")) for r in lines), default=0) if len(lines) > 1 else 0


def _logged(line: str) -> tuple[str, float | None]:
    """Read a line of Docker's json-file driver."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return line, None
    if not isinstance(row, dict) or not isinstance(row.get("log"), str):
        return line, None
    text = row["log"].encode(errors="replace").decode()  # half a surrogate pair is no text
    return text, _iso(str(row.get("time", "")))


def _time_of(found: dict[str, str | None]) -> float | None:
    if found.get("ms"):
        return int(found["ms"] or 0) / 1000
    if found.get("c"):
        try:
            parsed = datetime.strptime(f"{found['c']} +0000", "%a %b %d %H:%M:%S %Y %z")
        except ValueError:
            return None
        return parsed.timestamp()
    return _iso(found.get("at") or "")


def _iso(stamp: str) -> float | None:
    """Read an ISO time; one without a zone is taken as UTC. Nanoseconds are cut."""
    whole, rest = stamp[:19], stamp[19:].replace(",", ".")
    match = re.match(r"(\.\d{1,6})?\d*(Z|[+-]\d\d:?\d\d)?$", rest)
    if match is None:
        return None
    try:
        parsed = datetime.fromisoformat(whole + (match[2] or "Z").replace("Z", "+00:00"))
    except ValueError:
        return None
    return parsed.timestamp() + float(match[1] or 0)


def _plain(line: str) -> str:
    """Undo what web pages and terminals do to a line."""
    if "&" in line and _ENTITY.search(line):
        line = html.unescape(line)
    line = line.replace("\xa0", " ").replace("\u200b", "").rstrip()
    if "[" in line:
        line = _ESCAPE.sub("", line)
    logger = _LOGGER.search(line, 0, 120)
    if logger and _BEFORE_LOGGER.match(line[: logger.start()]):
        line = line[: logger.start()] + line[logger.end() :]
    relayed = _RELAYED.match(line) if "- [rank" in line else None
    if relayed:
        line = line[relayed.end() :]
    return "" if _FENCE.match(line) else line


def _unfolded(line: str) -> list[str]:
    """Give a line back the ends that it lost: progress bars, tracebacks in one line, escaped ones."""
    parts = line.split("\r") if "\r" in line else [line]
    lines: list[str] = []
    for part in parts:
        bars = _BAR.sub("\\1\n", part).split("\n") if "/s" in part or "s/it" in part else [part]
        for told in bars:
            lines += _unfolded_traceback(told)
    return lines[:MAX_LINES]


def _unfolded_traceback(line: str) -> list[str]:
    if _TRACE not in line and 'File "' not in line and 'File \\"' not in line:
        return [line]
    if line.startswith('{"'):
        return [line]  # JSON's own escapes are read by who reads JSON
    prefix = STREAM.match(line)
    mark = prefix[0] if prefix else ""
    own = line[len(mark) :]
    if "\\n" in own:
        rows = own.replace("\\n", "\n").replace('\\"', '"').replace("\\'", "'").split("\n")
    elif own.endswith(_TRACE) and _LEADS.match(own):
        rows = [own.removesuffix(_TRACE).rstrip(), _TRACE]
    else:
        rows = [own]
    return [mark + told for row in rows for told in _broken(row)]


def _broken(row: str) -> list[str]:
    """Give a traceback in one line its lines."""
    if not _FLAT.match(row):
        return [row]
    return [f"  {r}" if r.startswith('File "') else r for r in _BREAKS.sub("\n", row).split("\n")]
