"""Score `raywatch scan` against a corpus: usage: python -m tests.bench.score CORPUS [NAME...].

A corpus is a folder with expected.yaml and one archive or folder a scenario; only `logs/` and `driver*.log` of a
scenario are read, the rest of it repeats the answer.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path

import yaml

from raywatch.core.view import IncidentJson
from raywatch.scan import scan_paths


def unpack(corpus: Path, name: str, into: Path) -> list[str]:
    """Return the paths that a scan of the scenario is given."""
    packed = next(corpus.glob(f"{name}.tar.?z"))
    with tarfile.open(packed) as archive:
        archive.extractall(into, filter="data")
    roots = [
        p for p in into.rglob("logs") if p.is_dir() and not any(q.name == "logs" for q in p.parents)
    ]
    drivers = [p for p in into.rglob("driver*.log") if not any(q.name == "logs" for q in p.parents)]
    return [str(p) for p in roots + drivers]


def failures_of(expected: dict, incidents: list[IncidentJson]) -> list[str]:  # type: ignore[type-arg]
    """Return what is wrong; empty when all is as expected."""
    wrong = []
    real = [i for i in incidents if i["role"] in ("root", "symptom")]
    allowed = {expected["class"], *expected.get("also", [])} - {"none"}
    main = [i for i in real if i["class"] == expected["class"]]
    if expected["class"] != "none" and not main:
        wrong.append(f"class {expected['class']} missing")
    if (
        expected["class"] != "none"
        and main
        and expected.get("scope") not in {i["scope"] for i in main}
    ):
        wrong.append(f"scope {[i['scope'] for i in main]}")
    wrong += [f"unexpected {i['class']}" for i in real if i["class"] not in allowed]
    if len(real) > expected["max_incidents"]:
        wrong.append(f"{len(real)} incidents > {expected['max_incidents']}")
    if main and expected.get("resume") not in {i["resume"] for i in main}:
        wrong.append(f"resume {[i['resume'] for i in main]} != {expected.get('resume')}")
    explained = {e["class"] for i in main for e in i["explains"]}
    wrong += [
        f"does not explain {e}" for e in expected.get("effects", []) if main and e not in explained
    ]
    wrong += [f"must not be {i['class']}" for i in real if i["class"] in expected.get("not", [])]
    if "culprit_rank" in expected:
        ranks = [i["culprit"]["rank"] for i in real if i["culprit"]]
        if expected["culprit_rank"] not in ranks:
            wrong.append(f"culprit {ranks} != {expected['culprit_rank']}")
    if "world_size" in expected and not any(
        i["world_sizes"] == expected["world_size"] for i in main
    ):
        wrong.append(f"world sizes {[i['world_sizes'] for i in main]}")
    return wrong


def score(corpus: Path, name: str, expected: dict) -> list[str]:  # type: ignore[type-arg]
    """Scan one scenario and return what is wrong."""
    since = expected.get("since")
    with tempfile.TemporaryDirectory() as folder:
        paths = unpack(corpus, name, Path(folder))
        at = datetime.fromisoformat(since.replace("Z", "+00:00")).timestamp() if since else None
        return failures_of(expected, scan_paths(paths, since=at).incidents)


def main(corpus: Path, names: list[str]) -> int:
    """Print a line a scenario; return 1 where one is wrong."""
    table = yaml.safe_load((corpus / "expected.yaml").read_text())
    wrong = 0
    chosen = [n for n in table if (not names or n in names) and not table[n].get("live_only")]
    for name in chosen:
        found = score(corpus, name, table[name])
        wrong += bool(found)
        print(f"{'ok  ' if not found else 'FAIL'} {name:34} {'; '.join(found)}")
    print(f"{len(chosen) - wrong} of {len(chosen)} scenarios right")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
