"""What is packed is read as it was, whole or up to where it is damaged, and never with more memory than its bound."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raywatch.archive import Guarded, members_of
from raywatch.unpack import PACKINGS, Unpacked

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK = {
    "gzip": gzip.compress,
    "zstd": lambda data: bytes(zstd.compress(data)),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
TEXT = b"".join(b"line %d %d\n" % (n, n * 7919 % 1009) for n in range(30_000))


def drained(stream, size=70_000):
    """All bytes of a stream, read in odd pieces."""
    found = bytearray()
    buffer = bytearray(size)
    while got := stream.readinto(memoryview(buffer)):
        found += buffer[:got]
    return bytes(found)


def read(path):
    """(label without the folder, bytes, why) of everything in a file."""
    return [
        (m.path.removeprefix(f"{path.parent}/"), drained(m.stream), m.stream.why)
        for m in members_of(str(path))
    ]


def tar_of(files):
    """A tar of {name: bytes}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: p.name)
def test_members_and_padding_are_read_as_one(packing):
    """`cat a.gz b.gz`, padding of zeros between and behind them, an empty member."""
    pack = PACK[packing.name]
    packed = pack(TEXT) + b"\0" * 512 + pack(b"") + pack(b"the end\n") + b"\0" * 1024

    assert drained(Unpacked(io.BytesIO(packed), packing), 1 << 20) == TEXT + b"the end\n"
    assert drained(Unpacked(io.BytesIO(packed), packing), 1) == TEXT + b"the end\n"


def test_frames_that_hold_nothing_are_skipped():
    """pzstd and others put an index into a zstd file."""
    skip = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"index"
    zst = next(p for p in PACKINGS if p.name == "zstd")

    assert drained(Unpacked(io.BytesIO(skip + PACK["zstd"](TEXT) + skip), zst)) == TEXT


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: p.name)
@given(data=st.data())
def test_damage_ends_a_stream_with_its_reason_and_never_raises(packing, data):
    """Cut anywhere: a part from the start, and why. A byte changed: no exception, and never more than there was."""
    packed = bytearray(PACK[packing.name](TEXT[:20_000]))
    at = data.draw(st.integers(1, len(packed) - 1))
    cut = Guarded(Unpacked(io.BytesIO(bytes(packed[:at])), packing))
    found = drained(cut)
    assert TEXT.startswith(found)
    assert cut.why

    packed[at] ^= data.draw(st.integers(1, 255))
    changed = Guarded(Unpacked(io.BytesIO(bytes(packed)), packing))
    found = drained(changed)
    # zstd has a checksum only where it was asked for one.
    assert packing.name == "zstd" or changed.why or found == TEXT[:20_000]


def test_damage_that_looks_binary_is_damage():
    """A byte of bzip2 changed: what comes first holds zeros, and only the block's checksum says that it is wrong."""
    bzip2 = next(p for p in PACKINGS if p.name == "bzip2")
    packed = bytearray(PACK["bzip2"](TEXT[:20_000]))
    packed[2394] ^= 85
    changed = Guarded(Unpacked(io.BytesIO(bytes(packed)), bzip2))

    assert drained(changed) == b""
    assert "damaged" in changed.why

    sound = Guarded(Unpacked(io.BytesIO(PACK["bzip2"](bytes(range(256)) * 400)), bzip2))
    assert (drained(sound), sound.why) == (b"", "")  # binary, and nothing is wrong with it


def test_archives_in_an_archive(tmp_path):
    """A rotated .gz, a tar of another node and a text, in a tar; each with the name that tells what it is."""
    inner = gzip.compress(tar_of({"raylet.out": b"r\n", "raylet.out.1.zst": PACK["zstd"](TEXT)}))
    path = tmp_path / "all.tar.zst"
    files = {"a/gcs_server.out.1.gz": gzip.compress(TEXT), "n1.tgz": inner, "a/driver.log": b"d\n"}
    path.write_bytes(PACK["zstd"](tar_of(files)))

    assert read(path) == [
        ("all.tar.zst!/a/gcs_server.out.1", TEXT, ""),
        ("all.tar.zst!/n1.tgz!/raylet.out", b"r\n", ""),
        ("all.tar.zst!/n1.tgz!/raylet.out.1", TEXT, ""),
        ("all.tar.zst!/a/driver.log", b"d\n", ""),
    ]


def test_what_is_packed_and_no_text_says_nothing(tmp_path):
    """A core dump is full of words that look like failures."""
    (tmp_path / "core.77.gz").write_bytes(gzip.compress(b"\x7fELF\2\1" + TEXT))
    (tmp_path / "core.78").write_bytes(b"\x1f\x8b\x08 begins as gzip does " + TEXT)

    assert read(tmp_path / "core.77.gz") == [("core.77", b"", "")]
    assert read(tmp_path / "core.78") == [("core.78", b"", "")]


def test_members_that_nobody_reads_are_skipped(tmp_path):
    """And the ones behind them are whole."""
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_of({"a": TEXT, "b.gz": gzip.compress(TEXT), "c": b"c\n"})))

    assert [m.path.rpartition("/")[2] for m in members_of(str(path))] == ["a", "b", "c"]
    last = [
        m for m in members_of(str(path)) if m.path.endswith("c") and drained(m.stream) == b"c\n"
    ]
    assert len(last) == 1


def test_a_tar_that_is_damaged_in_its_middle_says_so(tmp_path):
    """The library takes a header of rubbish for the end."""
    data = bytearray(tar_of({"a.log": b"a\n", "b.log": b"b\n", "c.log": b"c\n"}))
    data[1024:1100] = b"\x07" * 76
    (tmp_path / "x.tar").write_bytes(data)
    first, broken = read(tmp_path / "x.tar")

    assert first == ("x.tar!/a.log", b"a\n", "")
    assert broken[:2] == ("x.tar", b"")
    assert "damaged" in broken[2]


def test_an_archive_in_archives_without_end_is_refused(tmp_path):
    """With a reason, at a bounded depth."""
    name, data = "a.log", b"a\n"
    for depth in range(9):
        name, data = f"{depth}.tar", tar_of({name: data})
    (tmp_path / name).write_bytes(data)
    ((label, found, why),) = read(tmp_path / name)

    assert (found, "archives in one another" in why) == (b"", True)
    assert label.count("!/") == 4


def test_a_header_without_end_is_refused(tmp_path):
    """A name of 64 MB: it would be held in memory."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    head = entry.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(head + b"n" * (64 << 20), 1))
    ((_, found, why),) = read(tmp_path / "x.tar.gz")

    assert (found, why) == (b"", "a header of more than 16 MiB")


def test_a_window_without_bound_is_refused(tmp_path):
    """zstd's frames say how much memory they want; 128 MiB is what `zstd -d` gives unasked."""
    new = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    (tmp_path / "a.log.zst").write_bytes(new.compress(TEXT) + new.flush())
    ((_, found, why),) = read(tmp_path / "a.log.zst")

    assert (found, "too much memory" in why) == (b"", True)


_PEAK = """
import resource, sys
from raywatch.scan import scan_paths
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = scan_paths(sys.argv[1:])
print(result.stats["bytes"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, result.damaged)
"""


@pytest.mark.parametrize("line", [b"quiet line of a worker\n", b"no end "])
def test_a_bomb_harms_nothing(tmp_path, line):
    """A gigabyte out of little, in lines or in one line: a peak of memory as for a small file."""
    piece = line * (1 << 20)
    new = zstd.ZstdCompressor(level=1)
    with (tmp_path / "bomb.log.zst").open("wb") as out:
        size = 0
        while size < 1 << 29:
            out.write(new.compress(piece))
            size += len(piece)
        out.write(new.flush())
    argv = [sys.executable, "-c", _PEAK, str(tmp_path / "bomb.log.zst")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    read_bytes, peak_kb, damaged = done.stdout.split(maxsplit=2)

    assert (int(read_bytes), damaged.strip()) == (size, "[]")
    assert int(peak_kb) < 60_000


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path):
    """A file that is gone since it was listed, and one that gives an error (a process's memory)."""
    assert read(tmp_path / "gone.log") == [("gone.log", b"", "No such file or directory")]
    (tmp_path / "mem.log").symlink_to("/proc/self/mem")
    ((_, found, why),) = read(tmp_path / "mem.log")

    assert (found, why) == (b"", "Input/output error")
