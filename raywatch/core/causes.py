"""The innermost real cause of a Python exception, out of a record's text.

Tracebacks are told from the cause to what it led to, and each layer of Ray, torchrun or Train puts its own exception
around it: those *carry* a cause. What says only that somebody else is gone (a broken ring, a dead actor) is an *echo*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raywatch.core.prefixes import HEADER

WINDOW = 32_768  # characters of a record that are looked at
MESSAGE = 300  # characters of a message that are kept
_LINES = 600
_MARGIN = re.compile(r"[ |]*(?:[|+-]+ )?")
_NAME = r"(?:[A-Za-z_]\w*\.)*(?:<locals>\.)?[A-Za-z_]\w*"
_RAISED = re.compile(rf"(?P<type>{_NAME})(?:\((?P<inner>{_NAME})\))?(?::(?: (?P<message>.*))?)?$")
# By its name alone a line is one: frames need not stand above it, and torchrun indents it.
_EXCEPTION = re.compile(r"(?:Error|Exception)$")
_ALONE = re.compile(rf"{_NAME}(?:\({_NAME}\))?(?::|$)")
_FRAME = re.compile(r"\s*(?:\|\s*)*File \"|.*\bFile \"[^\"\n]*\", line \d+")
_SNIPPET = re.compile(r"\[Rank (\d+)[\d,]* Error Snippet")
_ROOT = "Root Cause (first observed failure)"
_IGNORED = "Exception ignored "
# Steering, not failing: what was raised meanwhile is the failure.
_STEERING = frozenset(
    [
        "StopIteration",
        "StopAsyncIteration",
        "GeneratorExit",
        "Empty",
        "Full",
        "CancelledError",
        "KeyboardInterrupt",
        "SystemExit",
    ]
)
_CARRIERS = frozenset(
    [
        "RayTaskError",
        "RayActorError",
        "ActorDiedError",
        "WorkerGroupError",
        "ControllerError",
        "TrainingFailedError",
        "TuneError",
        "ChildFailedError",
        "ExceptionGroup",
        "BaseExceptionGroup",
        "UserExceptionWithTraceback",
        "RayError",
        "TrainError",
        "_RaySystemError",
        "RaySystemError",
        "RemoteTraceback",
        "_RemoteTraceback",
        "CalledProcessError",
        "ProcessRaisedException",
        "StartTraceback",
        "StartTracebackWithWorkerRank",
    ]
)
_ECHOES = frozenset(
    [
        "ActorUnavailableError",
        "NodeDiedError",
        "WorkerCrashedError",
        "ActorDiedError",
        "OwnerDiedError",
        "ObjectLostError",
        "HorovodInternalError",
        "HostsUpdatedInterrupt",
        "LocalRayletDiedError",
        "PreemptionError",
        "ProcessExitedException",
        "DistNetworkError",
        "DistStoreError",
        "DistBackendError",
        "EngineDeadError",
        "AsyncEngineDeadError",
        "MQEngineDeadError",
    ]
)
_ECHO = re.compile(
    r"Connection closed by (?:remote )?peer|Connection reset by peer|Broken pipe|Socket closed|ncclRemoteError"
    r"|Gloo connectFullMesh failed|Timed out waiting \d+ms for |ctor died unexpectedly|actor is dead because"
    r"|Watchdog caught collective|NCCL communicator was aborted|because its (?:node|owner|worker process) has died"
    r"|Horovod has been shut down|Horovod detected that one or more processes exited"
    r"|Engine core initialization failed\. See root cause|ngine ?core.{0,20} died"
)
_CREATION = "because of an error raised in its creation task"


@dataclass(frozen=True, slots=True)
class Cause:
    """What was raised first. `line` is its place in the text, from 0; `rank` is whose it is, '' where nobody says."""

    type: str
    message: str
    line: int
    rank: str = ""


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception's line. `inner` is the type in `RayTaskError(X)`."""

    type: str
    inner: str
    message: str
    line: int
    rank: str

    @property
    def _name(self) -> str:
        return self.type.rpartition(".")[2]

    @property
    def steers(self) -> bool:
        return self._name in _STEERING

    @property
    def carries(self) -> bool:
        return self._name in _CARRIERS and not self.echoes

    @property
    def echoes(self) -> bool:
        if _CREATION in self.message:  # what the constructor raised follows
            return False
        return self._name in _ECHOES or _ECHO.search(self.message) is not None


def innermost(text: str) -> Cause | None:
    """Return the innermost real cause in a record's text; None where there is none or only an echo of one.

    Linear in its first 32 KB. Never raises.
    """
    text = text[:WINDOW]
    if "\n" not in text and not _ALONE.match(text):
        return None
    lines = text.split("\n", _LINES)[:_LINES]
    found = [r for r in _raised(lines) if not r.steers]
    root = text.find(_ROOT)
    if root >= 0:  # torchrun says whose came first
        below = text.count("\n", 0, root)
        found = [r for r in found if r.line > below] + [r for r in found if r.line < below]
    real = next((r for r in found if not r.carries and not r.echoes), None)
    if real is not None:
        return Cause(real.type, real.message[:MESSAGE], real.line, real.rank)
    if any(r.echoes for r in found):
        return None
    named = next((r for r in reversed(found) if r.inner), None)
    if named is None or named.inner in _ECHOES | _CARRIERS:
        return None
    said = "" if named.message.startswith("ray::") else named.message[:MESSAGE]
    return Cause(named.inner, said, named.line, named.rank)


def _raised(lines: Sequence[str]) -> Iterator[_Raised]:
    """Yield the exceptions' own lines, in their order."""
    in_body, ignored, rank = False, False, ""
    for number, line in enumerate(lines):
        if 'File "' in line and _FRAME.match(line):
            in_body = True
            continue
        own = line[_end_of_margin(line) :]
        snippet = _SNIPPET.match(own)
        if snippet:
            rank, in_body = snippet[1], False
        ignored = ignored or own.startswith(_IGNORED)
        match = _RAISED.match(own.rstrip())
        if match is None or not _is_exception(line, match, in_body=in_body):
            in_body = in_body or HEADER.match(line) is not None
            continue
        in_body = match["inner"] is not None
        if not ignored:
            name = match["type"].removeprefix("builtins.")
            yield _Raised(name, match["inner"] or "", match["message"] or "", number, rank)
        ignored = False


def _end_of_margin(line: str) -> int:
    match = _MARGIN.match(line) if line[:1] in " |" else None
    return match.end() if match else 0


def _is_exception(line: str, match: re.Match[str], *, in_body: bool) -> bool:
    """Say whether a line is an exception's own: by its name, or as the first line under frames that is not indented."""
    name = match["type"].rpartition(".")[2]
    if _EXCEPTION.search(name):
        return True
    return in_body and not line[:1].isspace() and name[:1].isupper()
