"""Counting repeats says the same as expanding every line: counts, and whom it is about."""

from collections import Counter
from datetime import timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.collect.raylogs import describe
from raywatch.core import repeats as module
from raywatch.core.compiling import compile_ruleset
from raywatch.core.repeats import Repeats
from raywatch.core.signature_files import parse_signatures
from raywatch.core.signatures import Ruleset
from raywatch.model import Chunk, FileId, Finding
from raywatch.pipeline import Engine, counted, examine, load_engine
from tests.core.storms import GCS, NAMES, OOM, TEXTS

ENGINE = load_engine()
UTC = timezone.utc
WORKER = f"worker-{7:056x}-ffffffff-12.err"


def chunk_of(name: str, data: bytes, offset: int = 0, line: int = 1, **how) -> Chunk:
    """A chunk of a file that is named so."""
    source = describe(f"/session_1/logs/{name}")
    assert source is not None
    return Chunk(source, FileId(1, 1), offset, line, data, 0.0, **how)


def sums(findings) -> Counter[tuple[object, ...]]:
    """How many records each class has, and of whom."""
    total: Counter[tuple[object, ...]] = Counter()
    for f in findings:
        total[f.class_id, f.subject, f.signature] += f.count
    return total


def in_two_ways(chunks: list[Chunk]) -> tuple[list[Finding], list[Finding]]:
    """The findings of chunks, expanded and counted."""
    repeats = Repeats(ENGINE.ruleset)
    plain = [f for c in chunks for f in examine(ENGINE, c, UTC).findings]
    few = [f for c in chunks for f in examine(ENGINE, c, UTC, repeats=repeats).findings]
    return plain, [*few, *counted(ENGINE, repeats, UTC)[0]]


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), TEXTS, st.booleans(), st.sampled_from([0, 1000]))
def test_counting_says_what_expanding_says(name, data, final, many):
    """For any text of any format: the same number of records of each class and subject, the same facts."""
    module.MANY = many
    chunk = chunk_of(name, data, final=final)
    plain, few = in_two_ways([chunk])

    assert sums(few) == sums(plain)
    repeats = Repeats(ENGINE.ruleset)
    seen, told = examine(ENGINE, chunk, UTC), examine(ENGINE, chunk, UTC, repeats=repeats)
    assert told.upto == seen.upto
    assert set(told.facts + counted(ENGINE, repeats, UTC)[1]) <= set(seen.facts)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), st.lists(TEXTS, max_size=4))
def test_counts_go_on_from_chunk_to_chunk(name, texts):
    """What was learned in one chunk is known in the next."""
    chunks, offset, line = [], 0, 1
    for text in texts:
        chunks.append(chunk_of(name, text, offset, line, final=True))
        offset, line = offset + len(text), line + text.count(b"\n")
    plain, few = in_two_ways(chunks)

    assert sums(few) == sums(plain)


def test_the_first_and_the_last_line_are_the_evidence():
    """Each with its number and its time."""
    lines = [GCS.format(n=7).replace("12:00:07", f"12:00:{n:02}") for n in range(60)]
    plain, few = in_two_ways(
        [chunk_of("gcs_server.out", "\n".join([*lines, ""]).encode(), line=5, final=True)]
    )

    assert [(f.evidence.line, f.count) for f in few] == [(5, 1), (64, 1), (63, 58)]
    assert few[2].at - few[0].at == 58
    assert {f.evidence.text for f in few} <= {f.evidence.text for f in plain}


def test_who_is_named_by_digits_alone_is_told_apart():
    """Ranks, processes, job ids: a storm of sixty ranks is about sixty."""
    lines = [f"(RayTrainWorker pid={n % 60}, ip=10.0.0.1) {OOM.format(n=1)}\n" for n in range(600)]
    plain, few = in_two_ways([chunk_of("job-driver-x.log", "".join(lines).encode(), final=True)])

    assert len({f.subject for f in few}) == 60
    assert sums(few) == sums(plain)
    assert len(few) < 200


def test_what_an_unless_takes_back_is_not_counted_with_what_it_does_not(monkeypatch):
    """The lines differ in nothing but a digit that says whether anything failed."""
    rule = """
- {id: workers-killed, class: ray_oom_kill, where: {component: [any]}, any: ['worker.s. killed for memory'], unless: [' 0 workers? left']}
"""
    classes = ENGINE.ruleset.classes
    ruleset = Ruleset(parse_signatures(rule, "mine.yaml", classes), classes)
    monkeypatch.setattr("tests.core.test_repeats.ENGINE", Engine(ruleset, compile_ruleset(ruleset)))
    lines = [
        f"[2026-11-24 12:00:00,123 I 1 1] worker(s) killed for memory, {n} workers left\n"
        for n in (0, 7)
    ]
    for order in (lines * 50, lines[::-1] * 50, [lines[0]] * 90 + [lines[1]] * 10):
        plain, few = in_two_ways([chunk_of("raylet.out", "".join(order).encode(), final=True)])

        assert sums(few) == sums(plain)
        assert sum(f.count for f in few) == order.count(lines[1])


def test_a_storm_is_not_expanded():
    """Ten thousand lines with ten thousand numbers: a handful of records."""
    data = "".join(OOM.format(n=n) + "\n" for n in range(10_000)).encode()
    _, few = in_two_ways([chunk_of(WORKER, data, final=True)])

    assert sum(f.count for f in few) == 10_000
    assert len(few) < 10


def test_a_storm_of_names_is_bounded(monkeypatch):
    """Everybody of a shape who comes after the thousandth is counted with the others; none is lost."""
    monkeypatch.setattr(module, "MAX_IDENTITIES", 10)
    monkeypatch.setattr(module, "MAX_SHAPES", 20)
    lines = [GCS.replace("12:00:0{n}", "12:00:00").format(n=n) + "\n" for n in range(500)]
    repeats = Repeats(ENGINE.ruleset)
    found: list[Finding] = []
    for i in range(0, 500, 50):
        chunk = chunk_of("gcs_server.out", "".join(lines[i : i + 50]).encode(), i, final=True)
        found += examine(ENGINE, chunk, UTC, repeats=repeats).findings
        assert repeats._size <= 20 + 50
    found += counted(ENGINE, repeats, UTC)[0]

    assert sum(f.count for f in found) == 500


def test_what_is_kept_of_all_shapes_is_bounded(monkeypatch):
    """Identities and the numbers that they are known by, whatever the storm; none is lost."""
    monkeypatch.setattr(module, "MAX_KEPT", 100)
    repeats = Repeats(ENGINE.ruleset)
    found: list[Finding] = []
    for i in range(0, 2000, 100):
        names = [int(str(n), 16) for n in range(i, i + 100)]  # ids of digits alone: one shape
        rows = [GCS.replace("12:00:0{n}", "12:00:00").format(n=n) for n in names]
        data = "\n".join([*rows, ""]).encode()
        chunk = chunk_of("gcs_server.out", data, i, final=True)
        found += examine(ENGINE, chunk, UTC, repeats=repeats).findings
        shapes = [
            s for t in repeats._tables.values() for g in t.values() for s in g.shapes.values()
        ]
        assert sum(len(s.known) + len(s.numbers) for s in shapes) <= 100 + 2
    found += counted(ENGINE, repeats, UTC)[0]

    assert sum(f.count for f in found) == 2000


def test_facts_are_not_counted():
    """What they say differs each time: the oldest and the newest of a storm are expanded."""
    line = "Checkpoint successfully created at: Checkpoint(filesystem=local, path=/mnt/run/checkpoint_{n:06})\n"
    row = (
        '{{"asctime": "2026-11-24 12:00:00,123", "levelname": "INFO", "message": "'
        + line.strip()
        + '"}}\n'
    )
    data = "".join(row.format(n=n) for n in range(1000)).encode()
    chunk = chunk_of(f"train/ray-train-app-controller-{'a' * 56}.log", data, final=True)
    every = examine(ENGINE, chunk, UTC).facts
    if not every:
        pytest.fail("the sample is no fact any more")
    facts = examine(ENGINE, chunk, UTC, repeats=Repeats(ENGINE.ruleset)).facts

    assert facts == (*every[: module.MAX_FACTS], *every[-module.MAX_FACTS :])


def test_a_line_that_is_a_failure_and_a_fact_is_counted():
    """A decision of the controller's: five hundred of them are five hundred failures, and the newest is known."""
    row = (
        '{{"asctime": "2026-11-24 12:{m:02}:{s:02},123", "levelname": "INFO", "message": "[FailurePolicy] RETRY\\n'
        '  Source: worker_group_error\\n  Error count: 1 (max allowed: 3)\\n\\n", "run_name": "run"}}\n'
    )
    data = "".join(row.format(m=n // 60, s=n % 60) for n in range(500)).encode()
    name = f"train/ray-train-sys-controller-{'a' * 56}.log"
    chunk = chunk_of(name, data, final=True)
    plain, few = in_two_ways([chunk])
    repeats = Repeats(ENGINE.ruleset)
    facts = examine(ENGINE, chunk, UTC, repeats=repeats).facts + counted(ENGINE, repeats, UTC)[1]

    assert sums(few) == sums(plain)
    assert sum(f.count for f in few) >= 500
    assert facts[-1] == examine(ENGINE, chunk, UTC).facts[-1]
