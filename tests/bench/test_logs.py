"""The logs that figures are taken on hold what they say: to the byte, to the line, to the finding."""

import hashlib

import pytest

from raywatch.collect.raylogs import describe
from raywatch.scan import scan_paths
from tests.bench import logs, peers
from tests.bench.logs import FAMILIES, QUIET, Author, Truth
from tests.bench.measure import cost_of


def digest(folder):
    """All names and bytes below a folder."""
    told = hashlib.sha256()
    for path in peers.files_of(folder):
        told.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return told.hexdigest()


@pytest.mark.parametrize(("density", "size"), [(0.0, 3_000_001), (0.01, 2_000_003), (1.0, 300_007)])
def test_what_is_written_is_what_is_found(density, size, tmp_path):
    """By the matcher (lines, hits), by ripgrep (lines) and by a scan (findings, bytes); as much as was asked for."""
    truth = logs.write_folder(tmp_path / "logs", size, density=density, files=40)
    found = peers.counted(logs.engine(), tmp_path / "logs")
    stats = scan_paths([str(tmp_path / "logs")]).stats
    peers.write_patterns(tmp_path / "patterns", logs.engine().ruleset)
    command = peers.ripgreps()[0].count(tmp_path / "patterns", tmp_path / "logs")

    assert (truth.size, truth.matched, truth.hits) == (size, found.lines, found.hits.total())
    assert (stats["bytes"], stats["findings"]) == (size, truth.findings)
    assert peers.lines_by_ripgrep(cost_of(command, codes=(0, 1)).output) == truth.matched
    assert truth.lines == sum(
        p.read_bytes().count(b"\n") for p in peers.files_of(tmp_path / "logs")
    )
    assert truth.matched == pytest.approx(truth.lines * density, rel=0.1, abs=20)


def test_same_arguments_same_bytes(tmp_path):
    """And other seeds other bytes: no two files of a kind are equal."""
    for name in "ab":
        logs.write_folder(tmp_path / name, 400_000, density=0.01, files=30)
    files = [p.read_bytes() for p in peers.files_of(tmp_path / "a")]

    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert len(set(files)) == 30


def test_a_file_repeats_what_is_unique_in_it(tmp_path):
    """To the byte, with a line of a megabyte first; what is true of it is counted as often."""
    family = FAMILIES[0]
    author = Author(family, 0.01, 1)
    truth = logs.write_file(tmp_path / "log", author, 4_000_000, long=True, unique_bytes=1_000_000)
    text = (tmp_path / "log").read_bytes()
    longest = max(text.split(b"\n"), key=len)

    assert len(text) == truth.size == 4_000_000
    assert len(longest) >= 1_000_000
    assert peers.counted(logs.engine(), tmp_path).lines == truth.matched
    assert truth.lines == text.count(b"\n")


def test_quiet_lines_are_like_real_ones():
    """Of every family, of a real length on average, with what is hostile among them."""
    texts = [line.text for f in FAMILIES for line in logs.quiet_lines(f)]
    author = Author(FAMILIES[0], QUIET, 1)
    text, _ = author.block(5_000)

    assert len(texts) > 300
    assert any(not logs._is_utf8(t) for t in texts)
    assert any(t.count(b"\r") > 3 for t in texts)
    assert any(b"NCCL INFO" in t for t in texts)
    assert logs.near_misses() != []
    assert not any(mark in text for _, mark in logs._MARKS)
    stamped = [line for line in text.split(b"\n") if line.startswith(b"2026-11-23 07:00:0")]
    assert len({line[:23] for line in stamped}) == len(stamped) > 10


def test_a_line_that_a_signature_knows_is_not_quiet():
    """The next signature that ships may know one: then it must go."""
    logs.refuse_known([b"all is well"], "worker")
    with pytest.raises(ValueError, match=r"worker.txt: a signature knows b'lost: CUDA out"):
        logs.refuse_known([b"lost: CUDA out of memory. Tried to allocate 2 GiB"], "worker")


def test_every_signature_of_a_failure_is_among_the_failures():
    """In a file of a component that its `where` admits, where one of its samples looks like a line of such a file."""
    missing = []
    for s in logs.engine().ruleset.signatures:
        places = [
            (f, h.text)
            for f in FAMILIES
            for h in s.hits
            if s.class_id and s.applies_to(f.component) and logs._fits(h.text, f.format)
        ]
        if places and not any(logs._failure(f, text).findings for f, text in places):
            missing.append(s.id)
    assert missing == []


def test_a_family_is_what_its_files_are_called():
    """raywatch takes its component and format from the name alone."""
    for family in FAMILIES:
        source = describe(logs.file_name(family, 3))
        assert source is not None
        assert (source.component, source.format) == (family.component, family.format)


def test_a_piece_for_others_is_text(tmp_path):
    """mtail passes over what follows a byte that is no UTF-8."""
    logs.write_folder(tmp_path / "logs", 400_000, density=0.01, files=20, utf8=True)

    for path in peers.files_of(tmp_path):
        assert path.read_text(encoding="utf-8") != ""


def test_truths_add_up():
    """So often as it was written."""
    truth = Truth(1, 1, 1, 1, 1)
    truth.add(Truth(10, 5, 4, 3, 2), 2)

    assert truth == Truth(21, 11, 9, 7, 5)
