"""The command line as its users meet it: exit codes, JSON, errors of one line."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CRASH = (
    "[2026-11-23 07:09:03,578 W 10 10] (gcs_server) gcs_health_check_manager.cc:209: Health check failed for node "
    "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f, remaining checks 0, status 14, response status 0\n"
)


def raywatch(*argv, text=""):
    """Run the command; return (exit code, standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "raywatch", *argv],
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_explain_answers_in_the_contracts_shape():
    """One JSON object a file, with the line that proves it."""
    code, out, _ = raywatch("explain", "--json", "-", text="fine\n" + CRASH)
    answer = json.loads(out)

    assert code == 1
    assert set(answer) == {
        "file",
        "class",
        "confidence",
        "signature",
        "subject",
        "fields",
        "line",
        "text",
        "also",
    }
    assert (answer["class"], answer["line"], answer["text"]) == ("raylet_crash", 2, CRASH.strip())


def test_healthy_text_is_none():
    """Nothing failed: class none, exit code 0."""
    code, out, _ = raywatch("explain", "--json", text="step 1 loss=0.3 failed=0\n")

    assert (code, json.loads(out)["class"]) == (0, "none")


def test_scan_reads_folders_and_gz(tmp_path):
    """A packed log says the same as a plain one."""
    (tmp_path / "gcs_server.out.1.gz").write_bytes(gzip.compress(CRASH.encode()))
    code, out, _ = raywatch("scan", "--json", str(tmp_path))
    (incident,) = json.loads(out)["incidents"]

    assert code == 1
    assert (incident["class"], incident["resume"], incident["first_at"]) == (
        "raylet_crash",
        "elsewhere",
        "2026-11-23T07:09:03.578Z",
    )


def test_since_leaves_out_what_was_before(tmp_path):
    """An incident before --since is none."""
    (tmp_path / "gcs_server.out").write_text(CRASH)

    assert raywatch("scan", "--since", "2026-11-23T07:10:00Z", str(tmp_path))[0] == 0
    assert raywatch("scan", "--since", "2026-11-23 07:00", str(tmp_path))[0] == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("scan", "/does/not/exist"),
        ("scan", "--tz", "Mars/Base", "."),
        ("scan", "--since", "yesterdayish", "."),
        ("explain", "/does/not/exist"),
        ("rules", "check", "/does/not/exist"),
    ],
)
def test_bad_input_is_one_clear_error(argv):
    """Exit code 2, no traceback."""
    code, _, err = raywatch(*argv)

    assert code == 2
    assert "Traceback" not in err
    assert err.strip()


def test_a_broken_archive_is_an_error_and_what_could_be_read_counts(tmp_path):
    """A cut .gz, a .tar.gz that is none, and a tar that was cut behind its first file; in a folder the rest is read."""
    long = CRASH + "".join(f"step {n} {n * 7919 % 1009}\n" for n in range(200_000))
    (tmp_path / "gcs_server.out.gz").write_bytes(gzip.compress(long.encode())[:100_000])
    (tmp_path / "b.tar.gz").write_bytes(b"no archive")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "gcs_server.out").write_text(CRASH)
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "c" / "gcs_server.out", "a/gcs_server.out")
        tar.add(tmp_path / "gcs_server.out.gz", "a/gcs_server.out.1.gz")
    whole = (tmp_path / "d.tar.gz").read_bytes()
    (tmp_path / "d.tar.gz").write_bytes(whole[: len(whole) - 20_000])

    for name, found in (("gcs_server.out.gz", 1), ("b.tar.gz", 0), ("d.tar.gz", 1), ("", 1)):
        code, out, err = raywatch("scan", "--json", str(tmp_path / name))
        assert (code, "Traceback" in err, "; what came before it counts" in err) == (2, False, True)
        assert len(json.loads(out)["incidents"]) == found
        assert json.loads(out)["stats"]["damaged"] == err.count("\n") > 0


def zst(text: bytes) -> bytes:
    """Packed as `zstd` does."""
    return bytes(zstd.compress(text))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gcs_server.out.gz", gzip.compress),
        ("gcs_server.out.xz", lzma.compress),
        ("gcs_server.out.bz2", bz2.compress),
        ("gcs_server.out.zst", zst),
        ("gcs_server.out.zstd", zst),
        ("gcs_server.out", zst),  # only its first bytes say so
    ],
)
def test_what_is_packed_says_the_same(tmp_path, name, pack):
    """Alone, in a tar, and in a tar of the kind."""
    (tmp_path / name).write_bytes(pack(CRASH.encode()))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(tmp_path / name, f"logs/{name}")
    kind = name.rpartition(".")[2]
    (tmp_path / "logs.tar").write_bytes(plain.getvalue())
    (tmp_path / f"logs.tar.{kind.replace('out', 'zst')}").write_bytes(pack(plain.getvalue()))

    assert raywatch("explain", str(tmp_path / name))[0] == 1
    for path in (name, "logs.tar", f"logs.tar.{kind.replace('out', 'zst')}"):
        code, out, err = raywatch("scan", "--json", str(tmp_path / path))
        assert (code, err) == (1, "")
        assert [i["class"] for i in json.loads(out)["incidents"]] == ["raylet_crash"]


@pytest.mark.parametrize("head", [b"\x7fELF\2\1", b"abc\0\0", b"PK\x03\x04", b"\x1f\x8b\x08"])
def test_what_is_binary_is_not_classified(tmp_path, head):
    """A core dump is full of words that look like failures; a log with a hole at its start is a log."""
    (tmp_path / "core.77").write_bytes(head + b"\n" + CRASH.encode())
    assert raywatch("scan", str(tmp_path))[0] == 0
    assert raywatch("explain", str(tmp_path / "core.77"))[0] == 0

    (tmp_path / "gcs_server.out").write_bytes(b"\0" * 500 + b"\n" + CRASH.encode())
    assert raywatch("scan", str(tmp_path))[0] == 1


def test_text_from_logs_never_drives_the_terminal():
    """Escape sequences and bidirectional overrides are shown."""
    hostile = CRASH.strip() + " \x1b[2J\x1b]0;owned\x07 \u202e\n"
    _, out, _ = raywatch("explain", "-", text=hostile)

    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_binary_files_and_long_lines_do_no_harm(tmp_path):
    """Random bytes and a line of 9 MB are read and say nothing."""
    (tmp_path / "worker.bin.out").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "long.log").write_bytes(b"x" * 9_000_000 + b"\n" + CRASH.encode())

    assert raywatch("scan", "--json", str(tmp_path))[0] == 1


def test_every_verb_has_help_and_completion_works():
    """`--help` of each verb, and a completion script for each shell."""
    asking = ("incidents", "runs", "actions", "approve", "resume")
    for verb in ("scan", "explain", "rules", "completion", *asking):
        assert raywatch(verb, "--help")[0] == 0
    for shell in ("zsh", "fish"):
        assert "_RAYWATCH_COMPLETE" in raywatch("completion", shell)[1]


def test_rules_check_passes_on_what_is_shipped():
    """And names a broken file of the user's."""
    code, out, _ = raywatch("rules", "check")
    assert (code, out.split(" ", 1)[1]) == (0, "signatures, 0 problems\n")


def test_a_verb_that_asks_the_daemon_starts_fast():
    """Nothing of what the daemon needs is loaded for it."""
    heavy = (
        "{'aiohttp', 'asyncio', 'hyperscan', 'pydantic', 'yaml', 'textual', 'prometheus_client'}"
    )
    code = f"import raywatch.cli, raywatch.client, sys; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert done.stdout == b"[]\n"
