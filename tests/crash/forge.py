"""A warm process that forks lives of the daemon: `python -m tests.crash.forge`, a JSON request a line.

A daemon's start costs a second of imports and compiling; a fork of a process that has done both costs milliseconds.
A life runs the verb, as the command line does. This process has one thread, so what it forks is whole.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import raywatch.service  # noqa: F401 - what a life needs is imported once
from raywatch import cli, daemon
from raywatch.pipeline import load_engine
from tests.crash.mortal import Mortal
from tests.crash.mutants import MUTANTS


def live(request: Mapping[str, Any]) -> NoReturn:
    """Be a daemon until it ends or dies. The child's part."""
    code: object = 70
    try:
        out = os.open(request["out"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, out)):
            os.dup2(source, target)
        sys.argv = ["raywatch", "daemon", *request["argv"]]
        if request["mutant"]:
            MUTANTS[request["mutant"]]()
        for what, value in request["mortal"].items():
            assert hasattr(Mortal, what), what
            setattr(Mortal, what, value)
        if request["mortal"]:
            sqlite3.connect = Mortal  # type: ignore[assignment]
        cli.main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - the child must not come back
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


def main() -> None:
    """Fork a life a request, or say how one ended."""
    engine = load_engine()
    setattr(daemon, "load_engine", lambda _paths: engine)  # noqa: B010 - compiled once
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        pid = os.fork()
        if not pid:
            live(request)
        print(pid, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
