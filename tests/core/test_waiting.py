"""What waits, in numbers, and each failed launch counted once under its reason."""

from collections.abc import Mapping

import pytest

from raywatch.core.capacity import SAME_S, Capacity, Failure, heard, learned
from raywatch.core.waiting import MAX_TYPES, failed_launches, pending, reason_of
from raywatch.observations import Demanded, GroupsSeen
from tests.core.test_capacity import GPU, finding, group, never, refused, report, work

CPU = (("CPU", 4.0),)


def test_nothing_is_said_before_ray_has_told_what_waits():
    """0 would be a lie; an empty list is 0 of each kind."""
    assert pending(Capacity()) == {}
    nothing = dict.fromkeys(("work", "group", "request", "infeasible"), (0, None))
    assert pending(learned(Capacity(), [report(10.0)], 10.0)) == nothing
    assert pending(learned(Capacity(), [GroupsSeen(10.0, ())], 10.0)) == nothing


def test_what_waits_is_counted_by_kind_since_its_first():
    """What nothing can ever satisfy is its own kind, whoever asks for it."""
    asked = Demanded("request", (((("CPU", 64.0),), 1),), 3)
    capacity = learned(Capacity(), [report(10.0, work(2, CPU))], 10.0)
    capacity = learned(capacity, [report(20.0, work(5, CPU), work(1), asked)], 20.0)
    capacity = learned(capacity, [GroupsSeen(30.0, (group("a", 7.0), group("b", 9.0)))], 30.0)
    assert GPU[1] == ("GPU", 8.0)
    capacity = heard(capacity, [never(31.0)], 31.0)

    assert pending(capacity) == {
        "work": (5, 10.0),
        "group": (2, 7.0),
        "request": (3, 20.0),
        "infeasible": (1, 20.0),
    }


def failures(*batches):
    """The reasons that each batch of findings makes known."""
    known: Mapping[str, Failure] = {}
    told = []
    for batch in batches:
        known, reasons = failed_launches(known, batch)
        told.append(reasons)
    return told


def test_a_failed_launch_told_in_several_lines_is_one():
    """In one batch or in two; another type, and the same one later, are others."""
    first = refused(100.0)
    copy = refused(100.0 + SAME_S - 1, words="vCPU quota is used up")

    assert failures([first, copy]) == [["quota"]]
    assert failures([first], [copy]) == [["capacity"], []]
    assert failures([first, refused(100.0, "cpu")]) == [["capacity", "capacity"]]
    assert failures([first, refused(300.0)]) == [["capacity", "capacity"]]
    assert failures([first], [refused(300.0)], []) == [["capacity"], ["capacity"], []]


def test_only_the_autoscalers_own_words_count():
    """What a program prints is no launch, and other classes are none."""
    assert failures([refused(1.0, component="worker")]) == [[]]
    assert failures([finding("autoscaler_crash", "x of type gpu", 1.0)]) == [[]]


def test_what_is_remembered_is_bounded():
    """However many types a log names."""
    known, reasons = failed_launches({}, [refused(float(i), f"t{i}") for i in range(1000)])

    assert len(reasons) == 1000
    assert MAX_TYPES <= len(known) <= 2 * MAX_TYPES
    assert {f"t{i}" for i in range(1000 - MAX_TYPES, 1000)} <= known.keys()


@pytest.mark.parametrize(
    ("code", "words", "reason"),
    [
        ("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit", "quota"),
        ("MaxSpotInstanceCountExceeded", "", "quota"),
        ("", "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.", "quota"),
        ("OperationNotAllowed", "exceeding approved Total Regional Cores quota", "quota"),
        ("InsufficientInstanceCapacity", "", "capacity"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "", "capacity"),
        ("SkuNotAvailable", "", "capacity"),
        ("UnauthorizedOperation", "You are not authorized", "denied"),
        ("", "Required 'compute.instances.create' permission for 'projects/p'", "denied"),
        ("RequestLimitExceeded", "Request limit exceeded.", "throttled"),
        ("InvalidAMIID.NotFound", "The image id does not exist", "invalid"),
        ("", "head node set-up timed out", "other"),
    ],
)
def test_a_reason_is_one_of_few_words(code, words, reason):
    """Whatever the cloud calls it."""
    assert reason_of(Failure("t", "node_launch_failed", code, words, 0.0, 0.0)) == reason


def test_a_lack_without_words_is_a_lack():
    """The class says so."""
    assert reason_of(Failure("t", "capacity_unavailable", "", "?", 0.0, 0.0)) == "capacity"
