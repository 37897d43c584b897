"""Every regular file below some folders, one at a time: a folder of two hundred thousand is never held as a list."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def walk(root: str, listed: dict[str, bool]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and state of every regular file; what cannot be read is passed over. `listed`: which folders could be.

    Links are not followed. Never raises for what is there.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        listed[folder] = False
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                found = None
                with contextlib.suppress(OSError):  # gone between the listing and the look
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        found = entry.stat(follow_symlinks=False)
                if found is not None:
                    yield entry.path, found
            listed[folder] = True
