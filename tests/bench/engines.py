"""How fast a scan is, beside tools that people would use instead: python -m tests.bench.engines [--size 1G].

The tested command is the real one, start-up included; figures are processor seconds (user and system) of whole
processes that run in turn, medians of the pairs. That all count the same is checked: ripgrep the matching lines, mtail
the lines of each signature, and raywatch what the writer of the logs knows.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from tests.bench import logs, peers
from tests.bench.logs import QUIET, Truth
from tests.bench.measure import (
    Cost,
    Report,
    arguments,
    at_least,
    at_most,
    cost_of,
    cpu_s,
    interleaved,
    machine,
    ratio,
    shown,
    size,
)

MTAIL_SHARE, STORM_SHARE = 20, 4
FLAT = 1.1  # two peaks are equal that differ by a tenth
FOLDER, WC = "FOLDER", ["wc", "-l"]


@dataclass(slots=True)
class Corpus:
    """Logs on the disk and what is in them."""

    folder: Path
    truth: Truth

    @property
    def files(self) -> list[str]:
        """Their paths."""
        return [str(p) for p in peers.files_of(self.folder)]


@dataclass
class Bench:
    """What all parts share."""

    work: Path
    size: int
    rounds: int
    report: Report
    made: dict[str, Corpus] = field(default_factory=dict)

    @cached_property
    def patterns(self) -> Path:
        """The expressions for ripgrep."""
        path = self.work / "patterns"
        peers.write_patterns(path, logs.engine().ruleset)
        return path

    @cached_property
    def program(self) -> Path:
        """The program of mtail."""
        path = self.work / "signatures.mtail"
        peers.write_program(path, logs.engine().ruleset)
        return path

    @cached_property
    def jobs(self) -> bool:
        """Whether a scan can be told how many processes it may use."""
        argv = [peers.RAYWATCH, "scan", "--help"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return re.search(r"(?m)^ +-j\b", said) is not None

    def scan(self, path: Path, jobs: int = 1) -> list[str]:
        """The tested command."""
        return [peers.RAYWATCH, "scan", "--json", *(["-j", str(jobs)] * self.jobs), str(path)]

    def corpus(self, name: str, size: int, density: float, *, utf8: bool = False) -> Corpus:
        """Write logs, once; and read them, so that all find them in memory."""
        if name not in self.made:
            folder = self.work / name
            truth = logs.write_folder(folder, size, density=density, utf8=utf8)
            self.made[name] = Corpus(folder, truth)
            cost_of([*WC, *self.made[name].files])
        return self.made[name]

    def drop(self, name: str) -> None:
        """Remove logs that no other part needs."""
        corpus = self.made.pop(name)
        subprocess.run(["rm", "-r", str(corpus.folder)], check=True)

    def beside_ripgrep(
        self,
        what: str,
        corpus: Corpus,
        goal: float,
        more: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, list[Cost]]:
        """Measure a scan beside each ripgrep, and check that they count alike."""
        ripgreps = peers.ripgreps()
        commands = {"scan": self.scan(corpus.folder), **(more or {})}
        commands |= {r.version: r.count(self.patterns, corpus.folder) for r in ripgreps}
        costs = interleaved(commands, self.rounds)
        found = peers.counted(logs.engine(), corpus.folder)
        self.checked(what, corpus, costs["scan"][-1])
        for rg in ripgreps:
            name = f"{what}: lines, {rg.version}"
            lines = peers.lines_by_ripgrep(costs[rg.version][-1].output)
            self.report.check(name, "rg -a --no-unicode -c -f", lines, found.lines)
        self.told(what, corpus, "scan --json", costs["scan"])
        for rg in ripgreps:
            self.told(what, corpus, rg.version, costs[rg.version])
            times = ratio(costs[rg.version], costs["scan"])
            self.report.add(
                f"{what}: {rg.version} / scan", "CPU seconds", times, at_least(goal, "x")
            )
        return costs

    def checked(self, what: str, corpus: Corpus, cost: Cost) -> None:
        """Check that the scan told every finding."""
        found = json.loads(cost.output)["stats"]["findings"]
        self.report.check(f"{what}: findings", "scan --json", found, corpus.truth.findings)

    def told(self, what: str, corpus: Corpus, command: str, costs: Sequence[Cost]) -> None:
        """Show what a command took, for the record."""
        used = cpu_s(costs)
        peak = max(c.peak_mb for c in costs)
        note = f"CPU s, {corpus.truth.size / 1e6 / used:.0f} MB/s, peak {peak:.0f} MB"
        self.report.add(f"{what}: {corpus.truth.size / 1e6:.0f} MB", command, used, None, note)


def quiet(bench: Bench) -> None:
    """Logs in which next to nothing fails: 200 files."""
    corpus = bench.corpus("quiet", bench.size, QUIET)
    costs = bench.beside_ripgrep("quiet", corpus, 3, {"wc": [*WC, *corpus.files]})
    lines = peers.lines_by_wc(costs["wc"][-1].output)
    bench.report.check("quiet: lines, wc", "wc -l", lines, corpus.truth.lines)
    times = ratio(costs["scan"], costs["wc"])
    bench.report.add("quiet: scan / wc -l", "CPU seconds", times, at_most(5, "x"))


def one_file(bench: Bench) -> None:
    """The same in one file of unknown origin, which matches every `where`."""
    folder = bench.work / "one"
    folder.mkdir()
    path = folder / logs.file_name(logs.MIXED, 0)
    author = logs.Author(logs.MIXED, QUIET, 0)
    truth = logs.write_file(path, author, bench.size, unique_bytes=16 * logs.UNIQUE)
    bench.made["one"] = Corpus(folder, truth)
    cost_of([*WC, str(path)])
    bench.beside_ripgrep("quiet, one file", bench.made["one"], 3)
    bench.drop("one")


def mid(bench: Bench) -> None:
    """One line of a hundred is a failure."""
    bench.beside_ripgrep("1 % failures", bench.corpus("mid", bench.size, 0.01), 2)
    bench.drop("mid")


def mtail(bench: Bench) -> None:
    """Beside mtail, a byte, on a small piece: it would take hours for all. It loses what follows bytes that are no UTF-8."""
    quiet = bench.corpus("quiet", bench.size, QUIET)
    piece = bench.corpus("piece", bench.size // MTAIL_SHARE, 0.001, utf8=True)
    _beside_mtail(bench, "quiet", quiet, piece, 500)
    bench.drop("piece")


def _beside_mtail(bench: Bench, what: str, corpus: Corpus, piece: Corpus, goal: float) -> None:
    commands = {
        "scan": bench.scan(corpus.folder),
        "mtail": peers.mtail_command(bench.program, piece.folder, bench.work),
    }
    costs = interleaved(commands, bench.rounds)
    hits = peers.hits_by_mtail(costs["mtail"][-1].output)
    found = peers.counted(logs.engine(), piece.folder)
    same = "each signature's count as raywatch's"
    differ = [s for s in hits | found.hits if hits[s] != found.hits[s]]
    bench.report.check(
        f"{what}: lines of a signature, mtail",
        "mtail -one_shot",
        same if not differ else f"{len(differ)} signatures differ",
        same,
    )
    bench.told(what, piece, "mtail -one_shot", costs["mtail"])
    times = statistics.median(
        (m.cpu_s / piece.truth.size) / (s.cpu_s / corpus.truth.size)
        for m, s in zip(costs["mtail"], costs["scan"], strict=True)
    )
    bench.report.add(f"{what}: mtail / scan", "CPU seconds a byte", times, at_least(goal, "x"))


def storm(bench: Bench) -> None:
    """Every line is a failure."""
    corpus = bench.corpus("storm", bench.size // STORM_SHARE, 1)
    small = bench.corpus("small storm", bench.size // STORM_SHARE // 4, 1)
    costs = bench.beside_ripgrep("storm", corpus, 0.5)
    speed = corpus.truth.lines / cpu_s(costs["scan"])
    bench.report.add("storm: speed of one core", "scan --json", speed, at_least(500_000, "lines/s"))
    _flat(bench, "storm", corpus, costs["scan"][-1], small)
    piece = bench.corpus("piece", bench.size // STORM_SHARE // MTAIL_SHARE, 1, utf8=True)
    _beside_mtail(bench, "storm", corpus, piece, 100)
    for name in ("storm", "small storm", "piece"):
        bench.drop(name)


def one_storm(bench: Bench) -> None:
    """Every line is the same failure but for its number: what storms mostly are. Ten workers run out of memory."""
    large, small = (_same_line(bench, f"same-{n}", bench.size // n) for n in (4, 16))
    costs = bench.beside_ripgrep("storm of one failure", large, 0.5)
    speed = large.truth.lines / cpu_s(costs["scan"])
    bench.report.add(
        "storm of one failure: speed of one core",
        "scan --json",
        speed,
        at_least(500_000, "lines/s"),
    )
    _flat(bench, "storm of one failure", large, costs["scan"][-1], small)
    bench.drop("same-4")
    bench.drop("same-16")


def _same_line(bench: Bench, name: str, size: int) -> Corpus:
    folder = bench.work / name
    folder.mkdir()
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {n}.{n:02} GiB. GPU 3 has 79.10 GiB in all\n"
    block = "".join(line.format(n=n) for n in range(10, 90)).encode()
    times = size // 10 // len(block)
    for worker in range(10):
        path = folder / f"worker-{worker:056x}-02000000-{worker + 500}.err"
        with path.open("wb") as out:
            out.writelines(block for _ in range(times))
    lines = 10 * 80 * times
    truth = logs.Truth(10 * times * len(block), lines, lines, lines, lines)
    bench.made[name] = Corpus(folder, truth)
    return bench.made[name]


def _flat(bench: Bench, what: str, large: Corpus, cost: Cost, small: Corpus) -> None:
    other = cost_of(bench.scan(small.folder), codes=(0, 1))
    times = large.truth.size / small.truth.size
    bench.report.add(
        f"{what}: peak memory of {times:.0f} times as much",
        shown(bench.scan(Path(FOLDER))),
        cost.peak_mb / other.peak_mb,
        at_most(FLAT, "x"),
        f"({other.peak_mb:.0f} and {cost.peak_mb:.0f} MB)",
    )


def memory(bench: Bench) -> None:
    """Four times the size needs as much memory as a tenth of that."""
    small = bench.corpus("tenth", bench.size * 4 // 10, QUIET)
    large = bench.corpus("fourfold", bench.size * 4, QUIET)
    cost = cost_of(bench.scan(large.folder), codes=(0, 1))
    bench.report.add(
        f"peak memory, {large.truth.size / 1e6:.0f} MB",
        shown(bench.scan(Path(FOLDER))),
        cost.peak_mb,
        at_most(64, "MB"),
    )
    _flat(bench, "quiet", large, cost, small)
    bench.drop("fourfold")
    bench.drop("tenth")


def jobs(bench: Bench) -> None:
    """Two processes against one, by the clock; of so much that start-up, which is not divided, weighs little."""
    goal = at_least(1.7, "x")
    if not bench.jobs:
        bench.report.missing("scan -j 1 / -j 2", "seconds", goal, "no option -j")
        return
    corpus = bench.corpus("fourfold", bench.size * 4, QUIET)
    commands = {str(n): bench.scan(corpus.folder, n) for n in (1, 2)}
    costs = interleaved(commands, bench.rounds)
    times = statistics.median(
        a.wall_s / b.wall_s for a, b in zip(costs["1"], costs["2"], strict=True)
    )
    bench.report.add("scan -j 1 / -j 2", "seconds", times, goal)
    bench.checked("scan -j 2", corpus, costs["2"][-1])


PARTS: Mapping[str, Callable[[Bench], None]] = {
    p.__name__: p for p in (quiet, jobs, mtail, one_file, mid, storm, one_storm, memory)
}


def main() -> int:
    """Print the figures; return 1 where a goal is missed."""
    asked = arguments(__doc__)
    asked.add_argument("--size", type=size, default=size("1G"))
    asked.add_argument("--rounds", type=int, default=5, help="pairs of which medians are taken")
    asked.add_argument("--work", type=Path, help="where the logs go  [default: TMPDIR]")
    asked.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all by default")
    given = asked.parse_args()
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    print(f"engines: {machine()}")
    print(
        f"raywatch {version('raywatch')}, hyperscan {version('hyperscan')} (wheel); {peers.versions()}\n"
    )
    with tempfile.TemporaryDirectory(prefix="raywatch-bench-", dir=given.work) as folder:
        bench = Bench(Path(folder), given.size, given.rounds, Report(given.harder))
        empty = Path(folder, "empty")
        empty.mkdir()
        cost_of(bench.scan(empty))  # compiles the signatures, if nobody did
        for name in given.parts or PARTS:
            PARTS[name](bench)
    return bench.report.end()


if __name__ == "__main__":
    sys.exit(main())
