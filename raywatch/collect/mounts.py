"""Where inotify does not tell all: file systems whose files other machines, or a process of their own, write."""

from __future__ import annotations

import os
import re

# inotify sees what goes through this kernel's own view of a mount. An overlay is not among these: writes through the
# merged folder are told; those to its upper one by another mount are found as growth that no event told.
_SHARED = re.compile(
    r"(?:nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|ceph|lustre|gpfs|beegfs|afs|ocfs2|gfs2|glusterfs|fuse(?:\..+)?|fuseblk)$"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def shared_type(path: str, mountinfo: str) -> str:
    """Return the type of the file system that holds `path` (no link) if others may write to it unseen, else ''.

    `mountinfo` is the text of /proc/self/mountinfo (proc(5)); the longest mount point above the path holds it, of equal
    ones the last.
    """
    best, kind = "", ""
    for row in mountinfo.splitlines():
        before, _, after = row.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 4 and after:  # noqa: PLR2004 - the fifth is the mount point
            point = _OCTAL.sub(lambda m: chr(int(m[1], 8)), fields[4])
            if _is_above(point, path) and len(point) >= len(best):
                best, kind = point, after.split(" ")[0]
    return kind if _SHARED.match(kind) else ""


def _is_above(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def mounts() -> str:
    """Return the mounts of this process; '' where they cannot be read."""
    try:
        with open("/proc/self/mountinfo", "rb") as rows:
            return os.fsdecode(rows.read())
    except OSError:
        return ""
