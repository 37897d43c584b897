"""The cache of compiled signatures: it saves time, and whatever is wrong with it, the hits are the same."""

import json
import logging
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch import compiled
from raywatch.compiled import KEPT, cache_folder, load_rules
from raywatch.core.matcher import Matcher
from raywatch.core.signature_files import parse_rules
from raywatch.core.signatures import SignatureError, ruleset_of
from raywatch.model import Hit
from raywatch.pipeline import load_ruleset, rule_texts
from tests import twin

RULES = twin.texts(
    ["lost node", r"code \d+"],
    trust="kernel",
    hits=["lost node"],
    also=["s1"],
    capture="(?P<n>node)",
    set={"a": "b"},
)
OTHER = twin.texts(["found node"])
DATA = b"x\nlost node\ncode 7"
HITS = [Hit(0, 2, 11), Hit(1, 12, 18)]


def load(texts: twin.Texts, folder: Path | None) -> Matcher:
    """The matcher of what is loaded."""
    return load_rules(texts, folder)[1]


def entry(folder: Path) -> Path:
    """The one database in a cache."""
    (found,) = folder.iterdir()
    return found


@pytest.fixture
def folder(tmp_path, caplog):
    """A cache that holds RULES; what is said from here on is kept."""
    where = tmp_path / "cache" / "raywatch"
    load(RULES, where)
    caplog.set_level(logging.DEBUG, "raywatch.compiled")
    return where


def test_what_was_compiled_is_loaded(folder, caplog):
    """Without a word, and only for this user; the next start takes the file as it is."""
    before = entry(folder).stat()

    assert load(RULES, folder).scan(DATA) == HITS
    assert entry(folder).stat().st_mtime_ns == before.st_mtime_ns
    assert (before.st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert caplog.text == ""


def test_the_signatures_come_with_it(folder):
    """All that was parsed but their samples, from the cache as from the files."""
    parsed = parse_rules(RULES)
    fresh, *_ = load_rules(RULES, None)
    loaded, *_ = load_rules(RULES, folder)

    assert fresh == loaded == replace(parsed, signatures=loaded.signatures)
    assert [replace(s, hits=(), misses=()) for s in parsed.signatures] == list(loaded.signatures)
    assert parsed.signatures[0].hits
    shipped, *_ = load_rules(rule_texts(), None)
    assert shipped == ruleset_of(json.loads(json.dumps(load_ruleset().document())))


@pytest.mark.parametrize("component", ["raylet", "kernel", "worker"])
def test_what_a_component_can_mean_is_found_as_by_all(tmp_path, component):
    """In the text of every sample: the same hits less those of signatures that do not apply, new and from the cache."""
    shipped = load_ruleset()
    samples = (x.text for s in shipped.signatures for x in (*s.hits, *s.misses))
    data = "\n".join(samples).encode()
    for _ in range(2):
        ruleset, every, narrow = load_rules(rule_texts(), tmp_path / "raywatch")
        found = [
            h for h in every.scan(data) if ruleset.signatures[h.signature].applies_to(component)
        ]

        assert narrow.of(component).scan(data) == found
        assert 20 < len(found) < len(every.scan(data))


def test_a_start_from_the_cache_reads_no_yaml(folder):
    """What parses and checks is not even imported: it would cost more than the rest of a start."""
    code = (
        "import sys; from pathlib import Path; from raywatch.compiled import load_rules;"
        f"load_rules({RULES!r}, Path({str(folder)!r}));"
        "print([m for m in ('yaml', 'raywatch.core.lint') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_what_is_in_the_cache_is_what_is_used(folder):
    """The proof that it is loaded: a sound file with another database gives that one's hits."""
    path = entry(folder)
    key = path.read_bytes()[compiled._HEADER.size - 72 :][:32]
    path.write_bytes(compiled._packed(compiled._made(OTHER), key))

    assert load(RULES, folder).scan(b"found node") == [Hit(0, 0, 10)]


def test_other_signatures_have_another_file(folder):
    """Whatever a database depends on is in its name: also what is only checked."""
    for rules in (OTHER, twin.texts(["lost node", r"code \d+"], unless=["fine"])):
        load(rules, folder)

    assert len(list(folder.iterdir())) == 3
    assert load(RULES, folder).scan(DATA) == HITS


def test_what_is_refused_is_refused_beside_a_full_cache(folder):
    """A cache of good signatures says nothing about others."""
    with pytest.raises(SignatureError):
        load(twin.texts(["lost node", r"\S+ code"]), folder)
    with pytest.raises(SignatureError):
        load(twin.texts(["lost node", r"code \d+"], capture=[r"(?P<a>\S+)x"]), folder)


SOUND = compiled._packed(compiled._made(RULES), compiled._key(RULES) or b"")


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_is_compiled_anew(tmp_path_factory, data):
    """Any byte changed, any length cut or added: same hits, never a crash, and the file is sound again."""
    folder = tmp_path_factory.getbasetemp() / "damaged" / "raywatch"
    load(RULES, folder)
    path = entry(folder)
    assert path.read_bytes() == SOUND
    header = st.integers(0, compiled._HEADER.size)
    at = data.draw(st.one_of(header, st.integers(0, len(SOUND) - 1)))
    how = data.draw(st.sampled_from(["flip", "cut", "add", "swap"]))
    flipped = SOUND[:at] + bytes([SOUND[at] ^ data.draw(st.integers(1, 255))]) + SOUND[at + 1 :]
    damaged = {"flip": flipped, "cut": SOUND[:at], "add": SOUND + b"x" * (at + 1)}
    path.write_bytes(damaged.get(how, SOUND[at:] + SOUND[:at] if at else b""))

    assert load(RULES, folder).scan(DATA) == HITS
    assert path.read_bytes() == SOUND


def test_a_database_the_engine_does_not_load_is_compiled_anew(folder, caplog):
    """Its checksum holds, but it is none of this engine's."""
    key = compiled._key(RULES) or b""
    entry(folder).write_bytes(
        compiled._packed(compiled._LENGTH.pack(2) + b"{}no database at all", key)
    )

    assert load(RULES, folder).scan(DATA) == HITS
    assert "does not load it" in caplog.text
    assert entry(folder).read_bytes() == SOUND


def spoil_mode(folder: Path) -> None:
    entry(folder).chmod(0o620)


def spoil_folder_mode(folder: Path) -> None:
    folder.chmod(0o770)


def spoil_link(folder: Path) -> None:
    aside = folder.parent / "aside"
    entry(folder).rename(aside)
    (folder / name_of(RULES)).symlink_to(aside)


def spoil_folder_link(folder: Path) -> None:
    folder.rename(folder.parent / "aside")
    folder.symlink_to(folder.parent / "aside")


def spoil_pipe(folder: Path) -> None:
    entry(folder).unlink()
    os.mkfifo(folder / name_of(RULES), 0o600)


def spoil_folder_of_that_name(folder: Path) -> None:
    entry(folder).unlink()
    (folder / name_of(RULES)).mkdir(mode=0o700)


def spoil_size(folder: Path) -> None:
    with entry(folder).open("r+b") as out:
        out.truncate(compiled.MAX_BYTES + 1)


def name_of(rules) -> str:
    """The file of a ruleset."""
    return f"{(compiled._key(rules) or b'').hex()[:32]}.hsdb"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_mode, "no plain file of this user alone"),
        (spoil_folder_mode, "no folder of this user alone"),
        (spoil_link, "Too many levels of symbolic links"),
        (spoil_folder_link, "no folder of this user alone"),
        (spoil_pipe, "no plain file"),
        (spoil_folder_of_that_name, "no plain file"),
        (spoil_size, "too large"),
    ],
)
def test_what_others_could_have_written_is_not_read(folder, caplog, spoil, reason):
    """Compiled anew, with a line for whoever looks."""
    spoil(folder)

    assert load(RULES, folder).scan(DATA) == HITS
    assert caplog.records[0].levelname == "DEBUG"
    assert "not used" in caplog.text
    assert reason in caplog.text


def test_other_code_has_another_database():
    """A version of raywatch that writes other expressions never loads those of this one."""
    assert compiled._key(RULES, compiled._CODE[:1]) != compiled._key(RULES)
    assert compiled._key(RULES, [Path("nowhere.py")]) is None


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_another_user_owns_is_not_read(folder, caplog, which):
    """Also where root looks, who may read everything; whoever is not root looks into a folder of root's."""
    if os.geteuid() == 0:
        os.chown(entry(folder) if which == "file" else folder, 65_534, 65_534)
    else:
        folder = Path("/usr")

    assert load(RULES, folder).scan(DATA) == HITS
    assert "alone" in caplog.text


def test_an_older_format_is_compiled_anew(folder, monkeypatch):
    """The version stands before everything else."""
    monkeypatch.setattr(compiled, "_VERSION", 0)
    old = compiled._packed(compiled._made(OTHER), compiled._key(RULES) or b"")
    monkeypatch.undo()
    entry(folder).write_bytes(old)

    assert load(RULES, folder).scan(DATA) == HITS
    assert entry(folder).read_bytes() == SOUND


def test_it_does_not_grow(tmp_path):
    """The newest are kept; what a killed writer left goes too, what is not ours stays."""
    folder = tmp_path / "raywatch"
    folder.mkdir(mode=0o700)
    for n in range(KEPT + 3):
        left = folder / f".{n}.hsdb"
        left.write_bytes(b"")
        os.utime(left, (n, n))
    (folder / "notes.txt").write_text("mine")
    os.utime(folder / "notes.txt", (0, 0))
    load(RULES, folder)

    names = {p.name for p in folder.iterdir()}
    assert {name_of(RULES), "notes.txt"} < names
    assert len(names) == KEPT + 1


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, Path("/c/raywatch")),
        ({"HOME": "/h"}, Path("/h/.cache/raywatch")),
        ({"XDG_CACHE_HOME": "here", "HOME": "/h"}, Path("/h/.cache/raywatch")),
        ({"HOME": "here"}, None),
        ({}, None),
    ],
)
def test_where_it_is(environ, folder):
    """As the XDG base directory specification says."""
    assert cache_folder(environ) == folder


@pytest.mark.parametrize("folder", [None, Path("/proc/raywatch"), Path("/dev/null/raywatch")])
def test_where_nothing_can_be_kept_it_works_without(folder):
    """No home, nothing that can be written to, no folder at all."""
    assert load(RULES, folder).scan(DATA) == HITS


def test_a_full_disk_leaves_nothing_behind(tmp_path, caplog):
    """What could not be written whole is gone."""
    caplog.set_level(logging.DEBUG, "raywatch.compiled")
    folder = tmp_path / "raywatch"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        matcher = load(RULES, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert matcher.scan(DATA) == HITS
    assert list(folder.iterdir()) == []
    assert "not kept" in caplog.text


START = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.shell.test_compiled import DATA, HITS, RULES, load
assert all(load(RULES, Path(sys.argv[1])).scan(DATA) == HITS for _ in range(20))
"""


def test_several_at_once_do_no_harm(tmp_path):
    """Processes that start together, while the file is damaged again and again: all find the same."""
    folder = tmp_path / "raywatch"
    started = [
        subprocess.Popen([sys.executable, "-c", START, str(folder)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    while any(p.poll() is None for p in started):
        load(RULES, folder)
        for path in folder.glob("*.hsdb"):
            path.write_bytes(b"torn")
    errors = [p.communicate()[1].decode() for p in started]

    assert [p.returncode for p in started] == [0, 0, 0], errors
