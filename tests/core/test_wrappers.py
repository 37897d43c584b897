"""What others put around lines is taken off: the traceback inside reads as it was written."""

import json

import pytest

from raywatch.core.wrappers import Wrapping

TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nValueError: bad'
ROWS = TRACE.split("\n")
AT = 1795417743.5
FLAT = (
    'Trial x Traceback (most recent call last): File "a.py", line 1, in f g() File "b.py", line 2, in g v '
    "ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1)"
)


def read(text):
    """The lines of a text without its layers, and the last time that one told."""
    wrapping = Wrapping(text)
    lines = [wrapping.off(row) for row in text.split("\n")]
    return "\n".join(t for line in lines for t in line.texts), lines[-1].at


def each(before):
    """The traceback with something before each of its lines."""
    return "\n".join(before + row for row in ROWS)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (each("2026-11-23T07:09:03.500000001Z stderr F "), AT),
        (each("2026-11-23T09:09:03.5+02:00 stderr F "), AT),
        (each("[pod/ray-head-0/ray-head] "), None),
        (each("ray-head-1  | "), None),
        (each("worker-1: "), None),
        (each("10.0.0.2: "), None),
        (each("Nov 23 07:09:03 node-7 ray[4711]: "), None),
        (each("2026-11-23T07:09:03.5+0000 node-7 ray[4711]: "), AT),
        (each("<165>1 2026-11-23T07:09:03.5Z node-7 ray 4711 - - "), AT),
        (each('<165>1 2026-11-23T07:09:03.5Z node-7 ray 4711 ID1 [a@1 b="c"] '), AT),
        (each("train\tRun it\t2026-11-23T07:09:03.5000000Z "), AT),
        (each('2026-11-23T07:09:03.5Z {app="ray", pod="x"} '), AT),
        (each("1795417743500 "), AT),
        (each("[2026-11-23 07:09:03.5] "), AT),
        (each("> "), None),
        (each("&gt; ").replace('"', "&quot;"), None),
        (each("> > "), None),
        (each("    "), None),
        ("\n".join(f"{n}: {row}" for n, row in enumerate(ROWS, 9)), None),
        ("\n".join(f" {n}\t{row}" for n, row in enumerate(ROWS, 9)), None),
        (
            "\n".join(
                json.dumps(
                    {"log": f"{r}\n", "stream": "stderr", "time": "2026-11-23T07:09:03.500Z"}
                )
                for r in ROWS
            ),
            AT,
        ),
        (TRACE, None),
        (TRACE.replace("\n", "\\n"), None),
        (TRACE.replace('"', "&quot;"), None),
        (TRACE.replace(" ", "\xa0"), None),
    ],
)
def test_layers_are_taken_off(text, at):
    """And the time that they tell is kept."""
    assert read(text) == (TRACE, pytest.approx(at) if at else None)


def test_a_level_is_no_host():
    """What Rust's tracing writes behind its time is the record's own head."""
    head = "ERROR text_generation_launcher: Shard 0 crashed"

    assert read(f"2026-11-23T07:09:03.500000Z {head}") == (head, pytest.approx(AT))


@pytest.mark.parametrize(
    "before",
    ["> 2026-11-23T07:09:03.5Z stderr F ", "[pod/a/b] 2026-11-23T07:09:03.5Z ", "    > "],
)
def test_layers_lie_in_one_another(before):
    """A quoted container log."""
    assert read(each(before))[0] == TRACE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[Sun Feb 23 16:24:18 2025] NVRM: Xid (PCI:0000:9b:00): 119", 1740327858.0),
        ("[ 123.456789] NVRM: Xid (PCI:0000:9b:00): 119", None),
        ("kern  :warn  : [ 123.456789] NVRM: Xid (PCI:0000:9b:00): 119", None),
        (
            "kern  :warn  : 2025-02-23T16:24:18,5+00:00 NVRM: Xid (PCI:0000:9b:00): 119",
            1740327858.5,
        ),
    ],
)
def test_the_kernels_ways_to_date(text, said):
    """The dmesg command has four."""
    assert read(text) == ("NVRM: Xid (PCI:0000:9b:00): 119", said)


@pytest.mark.parametrize(
    ("one", "two", "marks"),
    [
        ("0: ", "1: ", ("[rank0]: ", "[rank1]: ")),
        ("head-1    | ", "worker-1  | ", ("(head-1) ", "(worker-1) ")),
        ("[pod/a/ray] ", "[pod/b/ray] ", ("(a.ray) ", "(b.ray) ")),
        ("worker-0: ", "worker-1: ", ("(worker-0) ", "(worker-1) ")),
        ("10.0.0.2: ", "10.0.0.3: ", ("(host, ip=10.0.0.2) ", "(host, ip=10.0.0.3) ")),
    ],
)
def test_who_wrote_a_line_stays_known(one, two, marks):
    """Several processes in one text: their lines get the mark that records are told apart by."""
    text = "\n".join(f"{one}{row}\n{two}{row}" for row in ROWS)

    assert read(text)[0] == "\n".join(f"{marks[0]}{row}\n{marks[1]}{row}" for row in ROWS)


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (
            FLAT,
            [
                "Trial x",
                "Traceback (most recent call last):",
                '  File "a.py", line 1, in f g()',
                '  File "b.py", line 2, in g v',
                "ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1)",
            ],
        ),
        (
            "  0%| | 0/8 [00:22<?, ?it/s]\r 12%|# | 1/8 [00:22<00:10, 1.2it/s]ValueError: bad",
            [
                "  0%| | 0/8 [00:22<?, ?it/s]",
                " 12%|# | 1/8 [00:22<00:10, 1.2it/s]",
                "ValueError: bad",
            ],
        ),
        (
            "(EngineCore pid=1) ERROR 03-29 12:59:53 [core.py:1099]   File a",
            ["(EngineCore pid=1)   File a"],
        ),
        (
            "ERROR 03-29 12:59:53 [core.py:9] failed: Traceback (most recent call last):",
            ["ERROR 03-29 12:59:53 [core.py:9] failed:", "Traceback (most recent call last):"],
        ),
        (
            "2025-10-31 03:11:02,475 - SimpleTuner - INFO - [rank7]: AssertionError",
            ["[rank7]: AssertionError"],
        ),
        ("2025-10-31 03:11:02,475 - SimpleTuner - INFO - rank 7 failed", None),
        ("[36m(A pid=1)[0m step", ["(A pid=1) step"]),
        ("```python", [""]),
        ('{"message": "Traceback (most recent call last):\\n  File \\"a\\""}', None),
        ("  + Exception Group Traceback (most recent call last):", None),
        ("  traceback : Traceback (most recent call last):", None),
        ("2026-11-23 07:21:01,500\tERROR a.py:1 -- boom", None),
        ("[2026-11-23 07:21:01,445 I 10 10] (gcs_server) a.cc:1: node_id=1", None),
        ("NCCL WARN [1] a.b[12] if a < b && c > d", None),
    ],
)
def test_a_line_gets_its_ends_back(line, lines):
    """Progress bars, tracebacks in one line; what is no wrapping stays as it is."""
    assert Wrapping(line + "\nother words").off(line).texts == (lines or [line])


def test_hostile_lines_are_bounded():
    """Nothing is slower than the line is long, nor makes more lines than it may."""
    bombs = ("\r" * 100_000, " File " * 100_000, 'File "a", line 1 ' * 50_000, "it/s] a" * 100_000)
    for bomb in (
        *bombs,
        "&gt;" * 100_000,
        "> " * 100_000,
        "[" * 100_000,
        '{"log":"' + "[" * 100_000,
    ):
        assert len(Wrapping(bomb).off(bomb).texts) <= 400


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "Triton Error: a\nTriton Error: b"])
def test_two_words_and_a_colon_are_no_layer_of_their_own(text):
    """What a journal leaves behind its time is taken off behind that only."""
    assert read(text) == (text, None)
