"""Keep the code packages of a running job, and put them back when Ray dropped them.

A runtime_env names them as `gcs://_ray_pkg_<hash>.zip`. Ray deletes one from the GCS as soon as no job uses it and ten
minutes have passed since its upload (a pin): the usual case when training fails after hours. A node that ran the job
has it in a cache and starts it again all the same; a new node, and one whose cache (10 GB) pushed it out, cannot.
No API gives the bytes back; the node of the driver holds them unpacked in
`<session>/runtime_resources/{working_dir,py_modules}_files/<name>/`.
Ray never compares a package with the hash in its name, so a zip made anew serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import aiohttp

MAX_BYTES = 100 << 20  # the dashboard takes no larger upload (DASHBOARD_CLIENT_MAX_SIZE)
MAX_TOTAL_BYTES = 1 << 30
MAX_FILES = 20_000
_PIECE = 1 << 20
_IN_GCS = "gcs://"
_RAY_MAX_BYTES = 512 << 20  # of a GCS value
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")  # becomes a part of a URL
_NAME = re.compile(r"_ray_pkg_[0-9A-Za-z_-]{1,128}\.zip")  # becomes a file name
_PLACES = ("working_dir_files", "py_modules_files")
_UNUSED = frozenset(["__pycache__"])  # made by the running job
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Kept:
    """A package that can be put back."""

    uri: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NotKept:
    """Why a package cannot be put back. Unless `final`, asking again later may help."""

    uri: str
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class PutBack:
    """Whether all packages of a job are in Ray again.

    present | restored: the job can be submitted; missing: it cannot be resumed; unknown: ask later.
    """

    state: Literal["present", "restored", "missing", "unknown"]
    detail: str = ""


def package_uris(runtime_env: str) -> tuple[str, ...]:
    """Return the packages of a runtime_env (JSON text) that live in the GCS. Never raises."""
    try:
        env = json.loads(runtime_env or "{}")
    except ValueError:
        return ()
    if not isinstance(env, dict):
        return ()
    modules = env.get("py_modules")
    named = [env.get("working_dir"), *(modules if isinstance(modules, list) else ())]
    return tuple(dict.fromkeys(u for u in named if isinstance(u, str) and u.startswith(_IN_GCS)))


class PackageStore:
    """A bounded folder of packages, readable by its owner only. Its methods read and write disks: call in a thread."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_total_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        self._folder, self._max_total = folder, max_total_bytes
        self._max_bytes = min(max_bytes, _RAY_MAX_BYTES)
        self._copying = threading.Lock()

    def keep(self, uri: str, session: Path) -> Kept | NotKept:
        """Copy a package from the session's folder. Never raises; a package that is here stays as it is.

        The first copy is the truest one: a job runs in its working_dir and may write there.
        """
        name = _name_of(uri)
        if name is None:
            return NotKept(uri, "only zip packages that Ray made can be put back", final=True)
        target = self._folder / name
        try:
            with self._copying:
                if target.exists():
                    os.utime(target)  # the ones that nobody asks for are dropped first
                    return Kept(uri, target.stat().st_size)
                return self._copy(uri, target, session)
        except (OSError, ValueError, zipfile.LargeZipFile) as error:
            return NotKept(uri, f"cannot be copied: {error}")

    def open(self, uri: str) -> BinaryIO | None:
        """Open the zip of a package that is kept, None if it is not. The caller closes it."""
        name = _name_of(uri)
        try:
            return (self._folder / name).open("rb") if name else None
        except OSError:
            return None

    def forget(self, before: float) -> None:
        """Remove the packages that nobody asked to keep since `before` (unix seconds). Never raises."""
        for path in self._folder.glob("_ray_pkg_*.zip"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()

    def _copy(self, uri: str, target: Path, session: Path) -> Kept | NotKept:
        place = _unpacked(session, target.name)
        if place is None:
            return NotKept(uri, f"not unpacked on this node, in {session}/runtime_resources")
        born = place.stat().st_ino
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._folder.glob(".*.part"):  # of a daemon that was killed
            stale.unlink(missing_ok=True)
        part = self._folder / f".{target.name}.part"
        try:
            _zip(place, part, self._max_bytes)
            again = _unpacked(session, target.name)
            if again != place or again.stat().st_ino != born:
                return NotKept(uri, "Ray unpacked it anew meanwhile")
            part.replace(target)
        except _TooLargeError as error:
            return NotKept(uri, str(error), final=True)
        finally:
            part.unlink(missing_ok=True)
        self._make_room(target)
        return Kept(uri, target.stat().st_size)

    def _make_room(self, newest: Path) -> None:
        """Drop the packages that were asked for longest ago, never the newest."""
        files = [p for p in self._folder.glob("_ray_pkg_*.zip") if p != newest]
        seen = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in files), reverse=True)
        total = newest.stat().st_size
        for _, size, path in seen:
            total += size
            if total > self._max_total:
                path.unlink(missing_ok=True)


class _TooLargeError(Exception):
    """A package is over the limit."""


def _name_of(uri: str) -> str | None:
    name = uri.removeprefix(_IN_GCS)
    return name if uri.startswith(_IN_GCS) and _NAME.fullmatch(name) else None


def _unpacked(session: Path, name: str) -> Path | None:
    """Return the folder of a package; None where it is not, or where Ray is unpacking it now.

    Ray removes the zip beside the folder when the folder is complete (unzip_package).
    """
    for kind in _PLACES:
        archive = session / "runtime_resources" / kind / name
        folder = archive.with_suffix("")
        if folder.is_dir() and not folder.is_symlink() and not archive.exists():
            return folder
    return None


def _zip(place: Path, target: Path, limit: int) -> None:
    """Pack a folder as Ray does: not compressed, empty folders too. Follows no link."""
    room = limit
    with open(target, "wb", opener=_private) as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
            for count, path in enumerate(_entries(place)):
                if count >= MAX_FILES:
                    raise _TooLargeError(f"has more than {MAX_FILES} files")
                room -= _add(archive, path, path.relative_to(place).as_posix(), room)
        raw.flush()
        os.fsync(raw.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


def _entries(place: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(place, onerror=_raise):
        folders[:] = sorted(
            f for f in folders if f not in _UNUSED and not Path(here, f).is_symlink()
        )
        if not folders and not files and Path(here) != place:
            yield Path(here)
        yield from (Path(here, f) for f in sorted(files))


def _add(archive: zipfile.ZipFile, path: Path, name: str, room: int) -> int:
    """Add a regular file or an empty folder; return how many bytes it took."""
    if path.is_dir() and not path.is_symlink():
        archive.writestr(zipfile.ZipInfo(name + "/", _EPOCH), b"")
        return 0
    try:  # the job writes here too: a link or a pipe may have taken the file's place
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0 if path.is_symlink() or not path.is_file() else _unreadable(path)
    size = 0
    with open(number, "rb") as source:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            return 0
        info = zipfile.ZipInfo(name, _EPOCH)
        info.external_attr = (mode & 0xFFFF) << 16
        with archive.open(info, "w") as out:
            while piece := source.read(_PIECE):
                size += len(piece)
                if size > room:
                    raise _TooLargeError("is larger than the limit for packages that are kept")
                out.write(piece)
    return size


def _raise(error: OSError) -> None:
    raise error


def _unreadable(path: Path) -> int:
    raise PermissionError(f"{path} cannot be read")


async def put_back(
    store: PackageStore,
    runtime_env: str,
    url: str,
    token: Callable[[], str | None],
    *,
    timeout_s: float = 60.0,
) -> PutBack:
    """See that Ray has every package of a runtime_env, from the store if it dropped one. Never raises.

    Asking makes Ray hold the package for ten more minutes: call it immediately before the submission.
    """
    restored = 0
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for uri in package_uris(runtime_env):
            one = await _Api(session, url.rstrip("/"), token).ensure(store, uri)
            if one.state in ("missing", "unknown"):
                return one
            restored += one.state == "restored"
    return PutBack("restored", f"{restored} packages") if restored else PutBack("present")


@dataclass(frozen=True, slots=True)
class _Api:
    session: aiohttp.ClientSession
    url: str
    token: Callable[[], str | None]

    async def ensure(self, store: PackageStore, uri: str) -> PutBack:
        name = uri.removeprefix(_IN_GCS)
        if not _WORD.fullmatch(name):
            return PutBack("missing", f"{uri[:200]!r} is no package's name")
        there = await self._ask("GET", name)
        if there is True:
            return PutBack("present")
        if there is not False:
            return PutBack("unknown", f"{uri}: {there}")
        source = await asyncio.to_thread(store.open, uri)
        if source is None:
            return PutBack("missing", f"Ray dropped {uri} and no copy of it was kept")
        with source:  # aiohttp reads it in a thread, piece by piece
            sent = await self._ask("PUT", name, source)
        if sent is not True:
            return PutBack("unknown", f"{uri} was not taken: {sent}")
        there = await self._ask("GET", name)  # believe Ray, not the upload; and pin it
        return (
            PutBack("restored")
            if there is True
            else PutBack("unknown", f"{uri} was put back and is not there")
        )

    async def _ask(self, method: str, name: str, data: BinaryIO | None = None) -> bool | str:
        """Return whether it is there, or why that is not known."""
        token = self.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        path = f"{self.url}/api/packages/gcs/{name}"
        try:
            async with self.session.request(
                method, path, data=data, headers=headers, allow_redirects=False
            ) as answer:
                text = (await answer.content.read(4096)).decode(errors="replace")
        except asyncio.TimeoutError:
            return "no answer in time"
        except aiohttp.ClientError as error:
            return f"{type(error).__name__}: {error}"
        if answer.status == 404 and "does not exist" in text:  # noqa: PLR2004 - not a wrong path's 404
            return False
        return True if answer.status == 200 else f"HTTP {answer.status}: {text[-300:]}"  # noqa: PLR2004
