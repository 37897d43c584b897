"""Text from logs for people: readable, on one line, never executed."""

import json

from hypothesis import given
from hypothesis import strategies as st

from raywatch.terminal import safe, told


def test_a_json_line_is_told_by_its_exception():
    """Ray Train's lines hold whole tracebacks; a person wants what was raised."""
    message = 'Error in training function:\nTraceback (most recent call last):\n  File "t.py"\nValueError: no'
    line = json.dumps({"asctime": "now", "levelname": "ERROR", "message": message, "run": "x"})

    assert told(line) == "ValueError: no"
    assert told(line[: line.index("ValueError") + 7]) == "ValueErr"[:7]  # cut where it is kept
    assert (
        told("[2026-11-23 07:09:03,578 W 10 10] plain") == "[2026-11-23 07:09:03,578 W 10 10] plain"
    )
    said = {"severity": "ERROR", "message": "3 workers were killed\nRefer to the documentation."}
    assert told(json.dumps(said)) == "3 workers were killed"
    ended = {"event_data": {"death_info": {"reason": "X", "reason_message": "received SIGTERM"}}}
    assert told(json.dumps(ended)) == "received SIGTERM"
    raised = {"error_info": {"error_message": "User exception:\n\x1b[36mray::f()\nValueError: no"}}
    assert told(json.dumps(raised)) == "ValueError: no"
    assert told('{"message": ""}') == '{"message": ""}'
    assert told('{"levelname": "INFO"}') == '{"levelname": "INFO"}'


@given(st.text())
def test_whatever_is_told_is_one_safe_line(text):
    """Controls, overrides and newlines inside a message are shown, never sent."""
    shown = safe(told(json.dumps({"message": text})))

    assert all(c.isprintable() or c == " " for c in shown)
