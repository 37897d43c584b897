"""Rules that change under a running daemon: another process checks and compiles them, and a broken set replaces nothing.

Compiling takes seconds that the first thread does not have, and the interpreter's lock. So a process of its own reads the
files, compiles them and tries the user's on their samples; the daemon only loads what it wrote, in milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeAlias, get_args

from raywatch import __version__
from raywatch.compiled import cache_folder, loaded_rules, made_rules
from raywatch.metrics import RulesView
from raywatch.model import Component, RaywatchError
from raywatch.pipeline import Engine, load_engine, rule_texts, user_files
from raywatch.terminal import safe

log = logging.getLogger("raywatch.daemon")
LIMIT_S = 120.0  # of a check; that of the shipped signatures takes 4 s of a core
NICE = 10  # a check must not hold up who reads the logs, nor who trains
MAX_REASON = 16_384  # bytes of what a check says, from its end

# A file's size, time of change in nanoseconds and number by its name; None where it cannot be looked at.
Stamp: TypeAlias = "tuple[tuple[str, tuple[int, int, int] | None], ...]"


class Reloading:
    """The rules in force. Owned by the first thread; `ask` and `row` may be called from any."""

    def __init__(
        self,
        paths: Sequence[str],
        engine: Engine | None = None,
        texts: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Begin with `engine`, or load it. `texts` are more signatures, which do not change. Raises SignatureError, OSError."""
        self._texts = texts
        self._paths = [os.path.abspath(p) for p in paths]  # noqa: PTH100 - a check has another working directory
        # Before they are read: what changes meanwhile is seen.
        self._tried = self._seen = _stamp(self._paths)
        self._take(engine or load_engine(self._paths, texts), time.time())
        self._failures = 0
        self._check: _Check | None = None
        self._asked = False

    def ask(self) -> None:
        """Look now, and reload whether anything changed or not."""
        self._asked = True

    def turn(self, now: float, *, sweep: bool) -> bool:
        """Go on with what is to be done; return whether `engine` is another one now.

        A change counts once a second sweep saw the same: an editor may still be writing.
        """
        if self._check is not None:
            return self._followed(self._check, now)
        if not sweep and not self._asked:
            return False
        stamp, before = _stamp(self._paths), self._seen
        self._seen = stamp
        if self._asked or stamp == before != self._tried:
            self._asked, self._tried = False, stamp
            try:
                self._check = _Check(self._paths, time.monotonic() + LIMIT_S, self._texts)
            except OSError as error:  # no process, no room for what it writes
                self._refuse(str(error))
        return False

    def close(self) -> None:
        """End a check that is under way."""
        if self._check is not None:
            self._check.close()
            self._check = None

    def row(self) -> dict[str, int | float | str | None]:
        """Return what /healthz says of the rules; the time is in unix seconds."""
        return {
            "signatures": len(self.engine.ruleset.signatures),
            "loaded_at": self._loaded_at,
            "error": self._error or None,
        }

    def view(self) -> RulesView:
        """Return what the metrics say of the rules."""
        return RulesView(self._failures, not self._error, self._loaded_at)

    def _followed(self, check: _Check, now: float) -> bool:
        try:
            engine = check.engine(time.monotonic())
        except (RaywatchError, OSError) as error:
            self._refuse(str(error))
        else:
            if engine is None:
                return False
            self._take(engine, now)
            log.info("rules reloaded signatures=%d", len(engine.ruleset.signatures))
        self.close()
        return not self._error

    def _take(self, engine: Engine, now: float) -> None:
        # Without databases of single components: one that was not asked for yet would be compiled in a turn.
        self.engine, self._loaded_at, self._error = replace(engine, narrow=None), now, ""
        self.pairs = frozenset(
            (s.class_id, component)
            for s in engine.ruleset.signatures
            if s.class_id
            for component in (get_args(Component) if "any" in s.components else s.components)
        )

    def _refuse(self, reason: str) -> None:
        self._error = safe(reason)
        self._failures += 1
        log.error("rules not reloaded: %s", self._error)


class _CheckError(RaywatchError):
    """What a check found wrong."""


class _Check:
    """A process that checks rules. It writes to files that have no name: nobody need read while it runs."""

    def __init__(
        self, paths: Sequence[str], until: float, texts: Sequence[tuple[str, str]] = ()
    ) -> None:
        """`until`, of the steady clock, it must have ended. Raises OSError."""
        self._until = until
        self._out, self._said = TemporaryFile(), TemporaryFile()  # noqa: SIM115 - until `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raywatch.reloading", __version__, json.dumps(texts), *paths],
            cwd=Path(__file__).parent.parent,  # the first place that `-m` looks in
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._said,
        )

    def engine(self, steady: float) -> Engine | None:
        """Return what it made, None while it runs. Raises RaywatchError, OSError."""
        code = self._process.poll()
        if code is None:
            if steady < self._until:
                return None
            raise _CheckError(f"the check took longer than {LIMIT_S:.0f} s")
        if code:
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - MAX_REASON))
            rows = self._said.read().decode(errors="replace").splitlines()
            raise _CheckError(rows[-1] if rows else f"the check ended with {code}")
        self._out.seek(0)
        return Engine(*loaded_rules(self._out.read()))

    def close(self) -> None:
        """End it, and let go of its files."""
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._said.close()


def _stamp(paths: Sequence[str]) -> Stamp:
    """Return what changes when a rule file does, comes or goes."""
    try:
        files = [str(f) for f in user_files(paths)]
    except OSError:  # a folder that must not be entered
        files = list(paths)
    return tuple((f, _state(f)) for f in files)


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - strings all the way
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def checked(paths: Sequence[str], more: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return what `loaded_rules` loads once the rules are right and `paths` keep their samples.

    Raises SignatureError, OSError, UnicodeDecodeError; _CheckError with the first sample that is not kept.
    """
    # Here, not above: the daemon does not need them.
    from raywatch.core.samples import check  # noqa: PLC0415
    from raywatch.core.signature_files import parse_rules  # noqa: PLC0415

    texts = [*rule_texts(paths), *more]
    body = made_rules(texts, cache_folder(os.environ))
    _, matcher = loaded_rules(body)
    own = frozenset(str(f) for f in user_files(paths))
    problems = check(parse_rules(texts), matcher, paths=own)
    if problems:
        raise _CheckError(problems[0])
    return body


def main(version: str, paths: Sequence[str], texts: Sequence[tuple[str, str]] = ()) -> int:
    """Be the process that checks, for a daemon of `version`."""
    os.nice(NICE)
    if version != __version__:
        sys.stderr.write("raywatch is another version now: restart the daemon\n")
        return 2
    try:
        body = checked(paths, texts)
    except (RaywatchError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(" ".join(str(error).splitlines()) + "\n")
        return 2
    sys.stdout.buffer.write(body)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[3:], [(n, t) for n, t in json.loads(sys.argv[2])]))
