"""A check run as somebody who may less: in a child of its own, without root and with a limit if one is asked for."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raywatch.doctor.checks import Check

NOBODY = 65534


def aside(
    look: Callable[[], Sequence[Check]], *, files: int = 0, left: int = 0
) -> list[tuple[str, str, str, str]]:
    """Return what a check says to nobody. `files`: hard limit of open files; `left`: so many may still be opened."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(out)
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            if os.geteuid() == 0:
                os.setgroups([])
                os.setuid(NOBODY)
            _fill(left)
            rows = [(c.name, c.verdict, c.fact, c.do) for c in look()]
            os.write(into, json.dumps(rows).encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as told:
        body = told.read()
    os.waitpid(child, 0)
    assert body, "the child said nothing"
    return [(n, v, f, d) for n, v, f, d in json.loads(body)]


def _fill(left: int) -> None:
    """Use up descriptors until `left` are left."""
    if not left:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for number in held[:left]:
            os.close(number)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path
