"""Looking incidents up finds those that asking each one finds, in the same order."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.core.board import Board
from raywatch.core.incidents import State, correlate, correlate_all
from raywatch.core.kinship import Asked
from raywatch.model import Entity, Evidence, Finding, Incident, Subject, Trust
from tests.core.test_incidents import CLASSES

KINDS = ("node", "worker", "actor", "job", "run", "pid", "submission")
CLASS_IDS = (
    "node_lost",
    "node_unhealthy",
    "spot_preemption",
    "ring_break",
    "worker_crash",
    "gcs_failure",
    "train_failed",
    "user_exception",
    "node_terminated_expected",
)
IDS = st.sampled_from(["1", "2", "3"])
ENTITIES = st.frozensets(st.builds(Entity, st.sampled_from(KINDS), IDS), max_size=3)


def _finding(
    class_id, who="", node="", when=10.0, entities=frozenset(), *, where=(1, "gcs"), source=""
) -> Finding:
    line, component = where
    scope = CLASSES[class_id].scope
    subject = Subject(scope, node if scope == "node" else who, node)
    evidence = Evidence(f"{component}.out", line, "text", when, component, class_id, offset=line)
    fields = {"source": source} if source else {}
    return Finding(
        class_id,
        subject,
        when,
        when > 0,
        evidence,
        "s",
        Trust.RAY,
        fields=fields,
        entities=entities,
    )


FINDINGS = st.builds(
    _finding,
    st.sampled_from(CLASS_IDS),
    st.sampled_from(["", "1", "2", "3"]),
    st.sampled_from(["", "1", "2"]),
    st.sampled_from([0.0, 1.0, 2.0, 10.0, 50.0, 51.0, 90.0, 200.0]),
    ENTITIES,
    where=st.tuples(st.integers(1, 3), st.sampled_from(["gcs", "worker", "driver"])),
    source=st.sampled_from(["", "", "preemption"]),
)


def walked(incidents, links, finding) -> list[Incident]:
    """The same by asking every incident."""
    asked = Asked(finding, CLASSES[finding.class_id].role, links)
    return [i for i in incidents if i.state == "open" and asked.is_kin_of(i, CLASSES)]


def _incident(number, finding, last, state) -> Incident:
    return Incident(
        f"i{number}",
        finding.class_id,
        finding.subject,
        finding.trust,
        0.9,
        state,
        min(finding.at, last),
        max(finding.at, last),
        finding.evidence,
        entities=finding.entities,
    )


INCIDENTS = st.lists(
    st.builds(
        _incident,
        st.integers(0, 5),
        FINDINGS,
        st.sampled_from([1.0, 10.0, 50.0]),
        st.sampled_from(["open", "open", "resolved"]),
    ),
    max_size=12,
)
RUNS = st.frozensets(st.builds(Entity, st.just("run"), IDS), min_size=1, max_size=2)
LINKS = st.dictionaries(st.builds(Entity, st.just("node"), IDS), RUNS, max_size=2)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(INCIDENTS, LINKS, FINDINGS, st.booleans())
def test_looking_up_finds_what_asking_each_finds(versions, links, asked, dropped):
    """Whatever has become of the incidents, and however they are linked."""
    board = Board()
    known: dict[str, Incident] = {}
    for incident in versions:
        before = known.get(incident.id)
        named = before.entities if before is not None else frozenset()
        known[incident.id] = replace(incident, entities=incident.entities | named)
        board.put(known[incident.id])
    if dropped and known:
        board.drop([next(iter(known))])
        del known[next(iter(known))]

    assert board.all() == tuple(known.values())
    assert board.related(links, asked, CLASSES) == walked(known.values(), links, asked)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(FINDINGS, max_size=14))
def test_all_at_once_says_what_one_after_the_other_says(findings):
    """Of findings in the order of their times, whose links are known."""
    findings = sorted((f for f in findings if f.dated), key=lambda f: f.at)
    known, _ = correlate_all(State(), (), findings, CLASSES)
    one_by_one = State(links=known.links)
    for finding in findings:
        one_by_one, _ = correlate(one_by_one, finding, CLASSES)

    assert known == one_by_one


def test_two_incidents_never_have_one_id():
    """A record of two classes about nobody in particular, far from each other in what they mean."""
    found = [_finding(c, "1") for c in ("user_exception", "cuda_error", "nan_loss")]
    state, _ = correlate_all(State(), (), found, CLASSES)

    assert len(state.incidents) == len(found) > 1
    assert len({i.id for i in state.incidents}) == len(found)
