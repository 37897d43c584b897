"""Of a crowd some are told apart, all are counted."""

from dataclasses import replace

from raywatch.core.crowds import LIMIT, Crowds
from raywatch.model import Evidence, Finding, Subject, Trust


def finding(at: float, number: int, count: int = 1, class_id: str = "worker_crash") -> Finding:
    """Somebody of a class, dated unless at 0."""
    evidence = Evidence("gcs_server.out", number, f"line {number}", at or None, "gcs")
    subject = Subject("worker", str(number))
    return Finding(class_id, subject, at, bool(at), evidence, "s", Trust.RAY, count=count)


def test_a_few_pass_as_they_are():
    """Most clusters never have a crowd."""
    few = [finding(60.0 * n, n) for n in range(3 * LIMIT)]
    crowds = Crowds()

    assert crowds.take(few) == few
    assert crowds.rest() == []


def test_a_crowd_is_counted_and_its_last_line_kept():
    """A thousand of one class in one minute, some of which stand for several."""
    many = [finding(6000.0 + n / 100, n, count=1 + n % 2) for n in range(1000)]
    crowds = Crowds()
    kept = [f for n in range(0, 1000, 10) for f in crowds.take(many[n : n + 10])]
    (rest,) = crowds.rest()

    assert kept == many[:LIMIT]
    assert sum(f.count for f in (*kept, rest)) == 1500
    assert replace(rest, count=many[-1].count) == many[-1]
    assert crowds.rest() == []


def test_classes_minutes_and_files_without_times_are_crowds_of_their_own():
    """A storm hides nobody else."""
    crowds = Crowds()
    crowds.take(finding(6000.0, n) for n in range(1000))
    others = [finding(6060.0, 1), finding(6000.0, 2, class_id="node_lost"), finding(0.0, 3)]

    assert crowds.take(others) == others
