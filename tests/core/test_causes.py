"""The innermost real cause of an exception, whatever is put around it."""

import pytest

from raywatch.core.causes import MESSAGE, innermost

FRAMES = '  File "a.py", line 3, in f\n    raise Bad: no\n'
TRACE = "Traceback (most recent call last):\n" + FRAMES
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"
DIRECT = "\nThe above exception was the direct cause of the following exception:\n\n"
RING = (
    "RuntimeError: [/p/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:59792."
)
CHILD = (
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\ntrain.py FAILED\n----\nFailures:\n"
    "[1]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : 1 (pid: 78971)\n  traceback : Traceback (most recent call last):\n"
    '    File "t.py", line 2, in main\n  RuntimeError: second\n----\nRoot Cause (first observed failure):\n[0]:\n'
    "  rank      : 0 (local_rank: 0)\n  error_file: /tmp/e.json\n  traceback : Traceback (most recent call last):\n"
    '    File "t.py", line 2, in main\n      raise KeyError("first")\n  KeyError: \'first\'\n===='
)
CASES = {
    "plain": (TRACE + "ValueError: bad", "ValueError", "bad"),
    "no message": (TRACE + "AssertionError", "AssertionError", ""),
    "module path": (
        TRACE + "torch.cuda.OutOfMemoryError: CUDA",
        "torch.cuda.OutOfMemoryError",
        "CUDA",
    ),
    "builtins": (TRACE + "builtins.ValueError: bad", "ValueError", "bad"),
    "any name under frames": (TRACE + "my.pkg.Oops: bad", "my.pkg.Oops", "bad"),
    "no frame has a source": ("Traceback (most recent call last):\nKeyError: 1", "KeyError", "1"),
    "a syntax error": (
        TRACE + '  File "b.py", line 1\n    f(\n     ^\nSyntaxError: unexpected EOF',
        "SyntaxError",
        "unexpected EOF",
    ),
    "during handling": (
        TRACE + "KeyError: 'x'\n" + DURING + TRACE + "ValueError: b",
        "KeyError",
        "'x'",
    ),
    "direct cause": (
        TRACE + "KeyError: 'x'\n" + DIRECT + TRACE + "ValueError: b",
        "KeyError",
        "'x'",
    ),
    "steering is no failure": (
        TRACE
        + "_queue.Empty\n"
        + DURING
        + TRACE
        + "RuntimeError: DataLoader worker (pid 3) is killed",
        "RuntimeError",
        "DataLoader worker (pid 3) is killed",
    ),
    "a note": (TRACE + "ValueError: bad\nwhile loading shard 7", "ValueError", "bad"),
    "a task of Ray": (
        TRACE
        + "ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1, ip=10.0.0.1)\n"
        + FRAMES
        + "ValueError: boom",
        "ValueError",
        "boom",
    ),
    "a chain in a task of a task": (
        "ray.exceptions.RayTaskError(MyError): ray::f() (pid=1, ip=10.0.0.1)\n  At least one of the input arguments "
        "for this task could not be computed:\nray.exceptions.RayTaskError: ray::g() (pid=2)\n"
        + FRAMES
        + "KeyError: 'x'\n"
        + DIRECT
        + "ray::g() (pid=2)\n"
        + FRAMES
        + "m.MyError: b",
        "KeyError",
        "'x'",
    ),
    "nothing but the name": (
        "ray.exceptions.RayTaskError(ValueError): ray::f() (pid=1)",
        "ValueError",
        "",
    ),
    "a constructor": (
        "ray.exceptions.ActorDiedError: The actor died because of an error raised in its creation task, "
        "ray::Bad.__init__() (pid=4, ip=10.0.0.1, actor_id=94f9, repr=<Bad>)\n"
        + FRAMES
        + "OSError: no weights",
        "OSError",
        "no weights",
    ),
    "a group": (
        (
            "  + Exception Group Traceback (most recent call last):\n  |   File 'a', line 1, in f\n"
            "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n  +-+---------------- 1 ----\n"
            '    | Traceback (most recent call last):\n    |   File "b", line 1, in g\n    | TypeError: bad\n    +-----'
        ),
        "TypeError",
        "bad",
    ),
    "torchrun says who was first": (CHILD, "KeyError", "'first'"),
    "a run whose first snippet is an echo": (
        "ray.train.WorkerGroupError: Training failed due to worker errors:\n[Rank 0 Error Snippet]:\n"
        + TRACE
        + RING
        + "\n\n[Rank 1 Error Snippet]:\n"
        + TRACE
        + "ValueError: bad batch\n",
        "ValueError",
        "bad batch",
    ),
    "Tune": (
        TRACE + "KeyError: 'x'\n" + DIRECT + TRACE + "ray.tune.error.TuneError: ('failed', [T])",
        "KeyError",
        "'x'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_found(name):
    """Its type as printed, and its message."""
    text, kind, message = CASES[name]
    cause = innermost(text)

    assert cause is not None
    assert (cause.type, cause.message) == (kind, message)
    assert kind.rpartition(".")[2] in text.split("\n")[cause.line]


@pytest.mark.parametrize(
    "text",
    [
        TRACE + RING,
        TRACE + "KeyboardInterrupt",
        "Exception ignored in: <function D.__del__ at 0x11>\n" + TRACE + "TypeError: 'NoneType'",
        "ray.exceptions.RayTaskError(ActorDiedError): ray::f() (pid=1)\n"
        + FRAMES
        + "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
        "ray.train.WorkerGroupError: Training failed due to worker errors:\n[Rank 0 Error Snippet]:\n"
        + TRACE
        + RING,
        "no exception here: Error count: 1",
        "",
    ],
)
def test_an_echo_is_no_cause(text):
    """Somebody else failed, somebody interrupted, or nothing was raised."""
    assert innermost(text) is None


def test_the_rank_whose_error_it_is_is_told():
    """Not the first of the list."""
    cause = innermost(CASES["a run whose first snippet is an echo"][0])

    assert cause is not None
    assert cause.rank == "1"


def test_what_is_kept_is_bounded():
    """A message of a megabyte, brackets and bars without end."""
    cause = innermost(TRACE + "ValueError: " + "x" * 1_000_000)

    assert cause is not None
    assert len(cause.message) == MESSAGE
    for text in (
        "| " * 500_000,
        "(" * 500_000,
        "a." * 500_000 + "Error",
        TRACE + ' File "' * 200_000,
    ):
        innermost(text)
