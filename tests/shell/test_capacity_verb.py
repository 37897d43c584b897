"""`raywatch capacity`: the sentence first, then who waits, what came and what the cloud said; text of others is shown."""

import json
import re
from dataclasses import replace

from raywatch.cluster import Cluster
from raywatch.model import Evidence, Finding, Subject, Trust
from raywatch.observations import (
    ActorSeen,
    AutoscalerSeen,
    Demanded,
    DeploymentSeen,
    GroupSeen,
    GroupsSeen,
    ServeAppSeen,
    ServeSeen,
)
from tests.shell.test_client import HOSTILE, raywatch, shown

TEXT = "Failed to launch 2 node(s) of type gpu. (NoStock): no p4d in the zone."
REFUSED = Finding(
    "capacity_unavailable",
    Subject("cluster", ""),
    20.0,
    dated=True,
    evidence=Evidence("/l/monitor.log", 1, TEXT, 20.0, "monitor"),
    signature="s",
    trust=Trust.RAY,
)


def cluster(name="gang", node_type="gpu"):
    """What the first thread knows of a cluster in which work waits."""
    known = Cluster({}, (), 0.0)
    bundles = (((("GPU", 8.0),), 2),)
    known.learn(
        [
            AutoscalerSeen(
                10.0,
                reports=True,
                active=(("head", 1),),
                pending=((node_type, "launching", 2),),
                demands=(Demanded("work", (((("CPU", 2.0),), 1),), 3),),
            ),
            GroupsSeen(10.0, (GroupSeen("ab", name, "01", "PENDING", "", bundles, 4.0),)),
            ActorSeen(10.0, "a", "Rank", "PENDING_CREATION", "01", "", 0),
            ServeSeen(
                10.0,
                (
                    ServeAppSeen(
                        "app",
                        "RUNNING",
                        "",
                        (DeploymentSeen("d", "HEALTHY", "", (("RUNNING", 1),)),),
                    ),
                ),
            ),
        ],
        10.0,
    )
    known.hear([REFUSED], 20.0)
    return known


def test_the_sentence_stands_first_and_tables_follow():
    """With ages; the exit code says that something waits."""
    with shown(**cluster().shown()) as url:
        code, out, _ = raywatch(url, "capacity")
        as_json = raywatch(url, "capacity", "--json")

    assert code == as_json[0] == 1
    assert json.loads(as_json[1]) == {
        **json.loads(json.dumps(cluster().shown()["autoscaling"])),
        "blind": [],
    }
    assert (
        re.sub(r"\b\d{4,}d\b", "9d", re.sub(r" +", " ", out))
        == """\
1 placement group waits for 2 x (8 GPU), and 1 other demand waits: the cloud has no capacity or quota for gpu \
(NoStock: no p4d in the zone).

WAITS COUNT WHAT ASKS FOR FITS WHO
9d 1 group 2 x (8 GPU) - gang
9d 3 work 2 CPU - -

WAITS COUNT ACTORS JOB
9d 1 Rank 01

NODE TYPE ACTIVE IDLE ASKED FOR LOST
head 1 0 - -
gpu 0 0 2 launching -

FAILED FOR NODE TYPE CLASS CODE THE CLOUD SAID
9d 9d gpu capacity_unavailable NoStock no p4d in the zone
"""
    )


def test_nothing_waits():
    """One line and exit code 0."""
    with shown(**Cluster({}, (), 0.0).shown()) as url:
        assert raywatch(url, "capacity") == (0, "Nothing waits for machines.\n", "")


def test_hostile_names_are_shown_and_not_executed():
    """Of placement groups and node types; nor are the cloud's words."""
    known = cluster(HOSTILE, HOSTILE)
    said = replace(REFUSED.evidence, text=TEXT.replace("no p4d", HOSTILE))
    known.hear([replace(REFUSED, at=21.0, evidence=said)], 21.0)
    with shown(**known.shown()) as url:
        _, out, _ = raywatch(url, "capacity")

    assert "\\x1b" in out.splitlines()[0]
    assert all(c.isprintable() or c == "\n" for c in out)


def test_the_snapshot_is_written_anew_only_where_something_is_new():
    """It is made of values that are replaced, never changed."""
    known = cluster()
    before = known.made_of()
    known.learn([], 21.0)
    known.hear([], 21.0)
    assert all(a is b for a, b in zip(before, known.made_of(), strict=True))
    known.learn([ServeSeen(30.0, ())], 30.0)
    assert known.made_of() != before
    assert known.shown()["serve"] == []
