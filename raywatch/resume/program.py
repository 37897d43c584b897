"""Start a program without a shell, hand it a document, keep the end of what it prints, and end all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

OUTPUT_LIMIT = 16_384  # bytes of a program's output that are kept: the last ones
GRACE_S = 5.0  # between SIGTERM and SIGKILL of a program that ran too long


class Ended(NamedTuple):
    """How a program ended: `state` as an Outcome has it."""

    state: Literal["succeeded", "failed", "timed_out"]
    detail: str
    output: str = ""


async def run_program(
    argv: Sequence[str], environ: Mapping[str, str], document: bytes, timeout_s: float
) -> Ended:
    """Run `argv` with `document` on its standard input, `timeout_s` at most.

    Raises nothing but cancellation, after its whole process group was killed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Ended("failed", f"cannot start {list(argv[:1])}: {error}")
    tail = _Tail()
    try:
        await asyncio.wait_for(_converse(process, document, tail), timeout_s)
    except asyncio.TimeoutError:
        await _end(process)
        return Ended("timed_out", f"after {timeout_s:g} s", tail.text())
    except asyncio.CancelledError:
        await _end(process)
        raise
    code = process.returncode
    return Ended("failed" if code else "succeeded", f"exit code {code}", tail.text())


def prefixed(values: Mapping[str, str]) -> dict[str, str]:
    """Return variables of ours with their prefix; no variable may hold a NUL."""
    return {f"RAYWATCH_{k}": v.replace("\0", "") for k, v in values.items()}


class _Tail:
    """Keeps the last bytes of a stream, whatever it prints."""

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> None:
        self._data = (self._data + data)[-OUTPUT_LIMIT:]

    def text(self) -> str:
        return self._data.decode(errors="replace")


async def _converse(process: asyncio.subprocess.Process, document: bytes, tail: _Tail) -> None:
    await asyncio.gather(_tell(process, document), _listen(process, tail))
    await process.wait()


async def _tell(process: asyncio.subprocess.Process, document: bytes) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(document)
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        return  # a hook need not read it


async def _listen(process: asyncio.subprocess.Process, tail: _Tail) -> None:
    while process.stdout is not None and (data := await process.stdout.read(65_536)):
        tail.add(data)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the hook and everything it started: its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            await asyncio.wait_for(process.wait(), GRACE_S)
        except asyncio.TimeoutError:
            continue
    if process.returncode is None:
        await process.wait()
    with contextlib.suppress(asyncio.TimeoutError):  # a pipe is closed at its end only
        await asyncio.wait_for(_listen(process, _Tail()), GRACE_S)
