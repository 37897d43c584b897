"""Which runs have series of their own, and what their `run` label says. Names are the users' and may be anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from raywatch.model import OVER, Run

MAX_SHOWN = 100  # runs with series; the others have none: a row "other" would be no run's truth
MAX_LABEL = 64
_DIGEST = 8


def newest(runs: Iterable[Run], limit: int = MAX_SHOWN) -> tuple[Run, ...]:
    """Return the runs that are shown, oldest first: what still goes on, then what began last."""
    rows = sorted(runs, key=lambda r: (r.status not in OVER, r.started_at or r.seen_at, r.id))
    return tuple(rows[-limit:])


def label_of(name: str) -> str:
    """Return a name as a label: printable, bounded, and another one for every other name."""
    clean = "".join(c if c.isprintable() else "?" for c in name)  # surrogates are not printable
    if clean == name and len(name) <= MAX_LABEL:
        return name or "unnamed"
    return f"{clean[: MAX_LABEL - _DIGEST - 1]}-{_digest(name)[:_DIGEST]}"


def assigned(labels: Mapping[str, str], shown: Iterable[Run]) -> Mapping[str, str]:
    """Give each shown run its label. It keeps it as long as it is shown and has its name.

    Of lineages of one name (another storage path) the later ones bear a digest: two series of one label set would
    make the whole exposition invalid, and their sum would be no run's truth.
    """
    shown = tuple(shown)
    kept = {r.id: labels[r.id] for r in shown if labels.get(r.id) in _labels(r)}
    taken = set(kept.values())
    for run in shown:
        if run.id not in kept:
            kept[run.id] = next(x for x in _labels(run) if x not in taken)
            taken.add(kept[run.id])
    return kept if kept != dict(labels) else labels


def _labels(run: Run) -> tuple[str, str, str]:
    """Return what may be a run's label, the shortest first; the last is longer than any name can make one."""
    plain = label_of(run.name)
    digest = _digest(run.id)
    return plain, f"{plain}~{digest[:_DIGEST]}", f"{plain}~{digest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
