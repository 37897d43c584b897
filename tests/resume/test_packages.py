"""Packages: what a running job was made of is kept, bounded and private, and put back only where Ray dropped it."""

import asyncio
import io
import json
import os
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from raywatch.resume.packages import (
    Kept,
    NotKept,
    PackageStore,
    PutBack,
    package_uris,
    put_back,
)

URI = "gcs://_ray_pkg_0a1b2c3d.zip"
ENV = json.dumps({"working_dir": URI, "env_vars": {"A": "b"}})


def unpack(session, uri=URI, kind="working_dir_files", **files):
    """Lay a package out as Ray's agent does; return its folder."""
    folder = session / "runtime_resources" / kind / uri.removeprefix("gcs://").removesuffix(".zip")
    folder.mkdir(parents=True)
    (folder.parent / f"{folder.name}.zip.lock").touch()
    for name, text in (files or {"train": "print(1)"}).items():
        (folder / f"{name}.py").write_text(text)
    return folder


def refused(answer) -> NotKept:
    """The reason, where nothing was kept."""
    assert isinstance(answer, NotKept)
    return answer


def read(store, uri=URI):
    """The zip of a package that is kept."""
    source = store.open(uri)
    if source is None:
        return None
    with source:
        return source.read()


def names(data):
    """What a zip holds."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return sorted(archive.namelist())


@pytest.mark.parametrize(
    ("env", "uris"),
    [
        (ENV, (URI,)),
        (json.dumps({"py_modules": [URI, "gcs://b.whl", "s3://x.zip"]}), (URI, "gcs://b.whl")),
        (json.dumps({"working_dir": URI, "py_modules": [URI]}), (URI,)),
        (json.dumps({"working_dir": "local:///app", "py_modules": None}), ()),
        ("", ()),
        ("no json", ()),
        ("[1]", ()),
    ],
)
def test_only_what_lives_in_the_gcs_must_be_kept(env, uris):
    """Ray fetches remote packages itself; local ones are on the nodes."""
    assert package_uris(env) == uris


@pytest.mark.parametrize("kind", ["working_dir_files", "py_modules_files"])
def test_a_kept_package_holds_the_files_their_modes_and_empty_folders(tmp_path, kind):
    """As Ray would unpack it; what running made (bytecode) is left out."""
    folder = unpack(tmp_path, kind=kind, train="print(1)")
    (folder / "pkg" / "empty").mkdir(parents=True)
    (folder / "run.sh").write_text("#!/bin/sh")
    (folder / "run.sh").chmod(0o755)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "train.pyc").write_bytes(b"x")
    os.utime(folder / "train.py", (0, 0))  # older than a zip can say
    store = PackageStore(tmp_path / "kept")
    kept = store.keep(URI, tmp_path)
    data = read(store, URI) or b""

    assert kept == Kept(URI, len(data))
    assert names(data) == ["pkg/empty/", "run.sh", "train.py"]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert stat.S_IMODE(archive.getinfo("run.sh").external_attr >> 16) == 0o755
        assert archive.read("train.py") == b"print(1)"


def test_only_the_owner_can_read_what_is_kept(tmp_path):
    """Code may hold secrets: 0700 and 0600, under any umask, and nothing else is left there."""
    unpack(tmp_path)
    before = os.umask(0)
    try:
        PackageStore(tmp_path / "kept").keep(URI, tmp_path)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    (file,) = (tmp_path / "kept").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_link_and_no_pipe_leads_out_of_the_package(tmp_path):
    """The job owns this folder: a link to a secret must not be copied, a pipe must not block."""
    folder = unpack(tmp_path)
    (tmp_path / "secret").write_text("s3cret")
    (folder / "a").symlink_to(tmp_path / "secret")
    (folder / "b").symlink_to(tmp_path)
    os.mkfifo(folder / "c")
    store = PackageStore(tmp_path / "kept")
    store.keep(URI, tmp_path)

    assert names(read(store, URI)) == ["train.py"]


def test_the_first_copy_stays(tmp_path):
    """The job writes into its working_dir; the package must not follow."""
    folder = unpack(tmp_path)
    store = PackageStore(tmp_path / "kept")
    first = store.keep(URI, tmp_path)
    (folder / "written_later.bin").write_bytes(b"x" * 1000)

    assert store.keep(URI, tmp_path) == first
    assert names(read(store, URI)) == ["train.py"]


def test_a_package_outlives_its_folder_and_the_daemon(tmp_path):
    """Ray removes the folder with the job; a new daemon finds the copy."""
    folder = unpack(tmp_path)
    PackageStore(tmp_path / "kept").keep(URI, tmp_path)
    (folder / "train.py").unlink()
    folder.rmdir()

    assert isinstance(PackageStore(tmp_path / "kept").keep(URI, tmp_path), Kept)


def test_what_is_being_unpacked_is_not_kept_yet(tmp_path):
    """The zip beside the folder says so; once it is gone the package is kept."""
    folder = unpack(tmp_path)
    archive = folder.with_suffix(".zip")
    archive.touch()
    store = PackageStore(tmp_path / "kept")
    early = refused(store.keep(URI, tmp_path))
    archive.unlink()

    assert not early.final
    assert isinstance(store.keep(URI, tmp_path), Kept)


@pytest.mark.parametrize(
    "uri",
    [
        "gcs://wheel-1.0-py3-none-any.whl",
        "gcs://../../etc/passwd.zip",
        "gcs://_ray_pkg_../../x.zip",
        "gcs://_ray_pkg_a.zip\n",
        "s3://_ray_pkg_a.zip",
        "",
    ],
)
def test_a_name_that_ray_does_not_make_is_refused_for_good(tmp_path, uri):
    """A URI becomes a file name: nothing but Ray's own pattern may."""
    unpack(tmp_path)
    assert refused(PackageStore(tmp_path / "kept").keep(uri, tmp_path)).final
    assert not (tmp_path / "kept").exists()
    assert read(PackageStore(tmp_path / "kept"), uri) is None


def test_a_package_on_another_node_is_not_kept(tmp_path):
    """The reason names where it was looked for."""
    answer = refused(PackageStore(tmp_path / "kept").keep(URI, tmp_path))

    assert (answer.final, "not unpacked on this node" in answer.reason) == (False, True)


def test_a_large_package_is_refused_and_leaves_nothing(tmp_path):
    """Also when the size is spread over many files."""
    unpack(tmp_path, a="x" * 600, b="y" * 600)
    store = PackageStore(tmp_path / "kept", max_bytes=1000)
    answer = refused(store.keep(URI, tmp_path))

    assert (answer.final, "larger than the limit" in answer.reason) == (True, True)
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_folder_is_bounded_and_drops_what_was_not_asked_for(tmp_path):
    """The oldest that nobody asked for goes first; the newest stays, however large."""
    uris = [f"gcs://_ray_pkg_{n}.zip" for n in range(4)]
    for uri in uris:
        unpack(tmp_path, uri, a="x" * 1000)
    store = PackageStore(tmp_path / "kept", max_total_bytes=3 * 1200)
    for at, uri in enumerate(uris[:3]):
        store.keep(uri, tmp_path)
        os.utime(tmp_path / "kept" / uri.removeprefix("gcs://"), (at, at))
    store.keep(uris[0], tmp_path)  # asked for again
    store.keep(uris[3], tmp_path)

    assert [read(store, u) is not None for u in uris] == [True, False, True, True]


def test_a_copy_that_a_crash_cut_is_no_copy(tmp_path):
    """What a killed daemon left half is removed, and the package is kept whole."""
    unpack(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "._ray_pkg_0a1b2c3d.zip.part").write_bytes(b"PK\x03\x04")
    store = PackageStore(tmp_path / "kept")
    assert read(store, URI) is None
    store.keep(URI, tmp_path)

    assert names(read(store, URI)) == ["train.py"]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_many_at_once_keep_one_whole_copy(tmp_path):
    """Threads that ask for the same package do not write over each other."""
    unpack(tmp_path, **{f"m{n}": "x" * n for n in range(50)})
    store = PackageStore(tmp_path / "kept")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.keep(URI, tmp_path), range(8)))

    assert len(set(answers)) == 1
    assert len(names(read(store, URI))) == 50


def test_a_folder_that_cannot_be_written_is_an_answer(tmp_path):
    """A file stands where the folder should be."""
    unpack(tmp_path)
    (tmp_path / "kept").write_text("")

    answer = refused(PackageStore(tmp_path / "kept").keep(URI, tmp_path))
    assert "cannot be copied" in answer.reason


# --- putting back ---


class Gcs:
    """Plays /api/packages of Ray 2.60 (dashboard/modules/job/job_head.py)."""

    def __init__(self, *, token=None, takes=True, status=None) -> None:
        self.held: dict[str, bytes] = {}
        self.token, self.takes, self.status = token, takes, status
        self.calls: list[str] = []

    async def handle(self, request):
        """GET and PUT of one package."""
        name = request.match_info["name"]
        self.calls.append(request.method)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        if self.status == "hang":
            await asyncio.sleep(30)
        if isinstance(self.status, int):
            return web.Response(status=self.status, text="404: Not Found")
        if request.method == "PUT":
            data = await request.read()
            if self.takes:
                self.held[name] = data
            return web.Response()
        if name in self.held:
            return web.Response()
        return web.Response(status=404, text=f"Package gcs://{name} does not exist")


@asynccontextmanager
async def serving(gcs):
    """The API on loopback."""
    app = web.Application(client_max_size=100 << 20)
    app.router.add_route("*", "/api/packages/gcs/{name}", gcs.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def restore(gcs, store, env=ENV, *, token=None, timeout_s=5.0):
    """Put back; return what came of it."""

    async def main():
        async with serving(gcs) as url:
            return await put_back(store, env, url, lambda: token, timeout_s=timeout_s)

    return asyncio.run(main())


@pytest.fixture
def store(tmp_path):
    """A store that kept one package."""
    unpack(tmp_path)
    kept = PackageStore(tmp_path / "kept")
    kept.keep(URI, tmp_path)
    return kept


def test_a_dropped_package_is_put_back_byte_for_byte(store):
    """And asked for again: Ray's word counts, and its asking pins it."""
    gcs = Gcs(token="t")

    assert restore(gcs, store, token="t") == PutBack("restored", "1 packages")
    assert gcs.held == {"_ray_pkg_0a1b2c3d.zip": read(store, URI)}
    assert gcs.calls == ["GET", "PUT", "GET"]


def test_what_ray_has_is_left_alone(store):
    """The original is better than any copy of it."""
    gcs = Gcs()
    gcs.held["_ray_pkg_0a1b2c3d.zip"] = b"original"

    assert restore(gcs, store) == PutBack("present")
    assert gcs.held == {"_ray_pkg_0a1b2c3d.zip": b"original"}


def test_a_job_without_packages_asks_nothing(store):
    """Nothing to keep, nothing to put back."""
    gcs = Gcs()
    assert restore(gcs, store, "{}") == PutBack("present")
    assert gcs.calls == []


@pytest.mark.parametrize("uri", ["gcs://_ray_pkg_other.zip", "gcs://x.whl", "gcs://../jobs/"])
def test_a_package_that_nobody_has_makes_the_run_not_resumable(store, uri):
    """One that is missing decides, also beside one that is there."""
    gcs = Gcs()
    answer = restore(gcs, store, json.dumps({"working_dir": URI, "py_modules": [uri]}))

    assert (answer.state, uri in answer.detail) == ("missing", True)


@pytest.mark.parametrize(
    ("gcs", "word"),
    [
        (Gcs(token="t"), "401"),
        (Gcs(status=500), "500"),
        (Gcs(status=404), "404"),  # an old Ray without this path: not the same as "does not exist"
        (Gcs(status="hang"), "no answer in time"),
        (Gcs(takes=False), "is not there"),
    ],
)
def test_an_answer_that_says_nothing_is_unknown(store, gcs, word):
    """Unknown is not missing: later it may be known."""
    answer = restore(gcs, store, timeout_s=0.5)

    assert (answer.state, word in answer.detail) == ("unknown", True)


def test_no_dashboard_is_unknown(store):
    """Refused connections are an answer too."""
    answer = asyncio.run(put_back(store, ENV, "http://127.0.0.1:9", lambda: None))

    assert answer.state == "unknown"
