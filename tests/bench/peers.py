"""The tools that people would use instead, with the same expressions on the same files; and what each of them counts.

Debian's ripgrep and mtail come by tests/tools/bench-install, a newer ripgrep too (into .bench/). mtail gets one counter
a signature, as raywatch counts; ripgrep says only which lines match anything, which is less.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raywatch.core.signatures import Ruleset
from raywatch.model import HIT_BITS
from raywatch.pipeline import Engine

RAYWATCH = str(Path(sys.executable).with_name("raywatch"))
BLOCK = 4 << 20
_NEWER = Path(__file__).parents[2] / ".bench" / "bin" / "rg"
_MASK = (1 << HIT_BITS) - 1


@dataclass(frozen=True, slots=True)
class Ripgrep:
    """A ripgrep that is there."""

    path: str
    version: str

    def count(self, patterns: Path, folder: Path) -> list[str]:
        """The command that counts matching lines, file by file."""
        flags = ["--no-config", "--no-ignore", "--no-unicode", "-a", "-c", "-f"]
        return [self.path, *flags, str(patterns), str(folder)]


@dataclass(slots=True)
class Counted:
    """What was counted: matching lines, and hits by the signature's number."""

    lines: int = 0
    hits: Counter[int] = field(default_factory=Counter)


def version(argv: Sequence[str]) -> str:
    """The first line that a program says of itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]


def ripgreps() -> list[Ripgrep]:
    """Every ripgrep that is there, each version once, the newest last."""
    paths = [p for p in (shutil.which("rg"), str(_NEWER) if _NEWER.exists() else None) if p]
    if not paths:
        raise FileNotFoundError("no rg: run tests/tools/bench-install")
    named = {version([p, "--version"]).split(" (")[0]: p for p in paths}
    return [Ripgrep(path, name) for name, path in named.items()]


def versions() -> str:
    """What there is to compare with. Raises FileNotFoundError for what there must be."""
    if not shutil.which("mtail"):
        raise FileNotFoundError("no mtail: run tests/tools/bench-install")
    mtail = version(["mtail", "--version"]).partition(" git")[0]
    return ", ".join([mtail, *(r.version for r in ripgreps()), version(["wc", "--version"])])


_LONG = re.compile(r"\{([01]),\d{4,}\}")


def plain(pattern: str) -> str:
    """A signature's expression for engines that join several: without names of groups."""
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)


def write_patterns(path: Path, ruleset: Ruleset) -> None:
    """Write the expressions of all signatures for `rg -f`, one a line."""
    path.write_text("".join(f"{_bytewise(plain(p))}\n" for s in ruleset.signatures for p in s.any))


def _bytewise(expression: str) -> str:
    """What is no ASCII as bytes: ripgrep refuses it under --no-unicode. Such characters stand in no class."""
    return "".join(
        c if c.isascii() else "".join(rf"\x{b:02x}" for b in c.encode()) for c in expression
    )


def write_program(path: Path, ruleset: Ruleset) -> None:
    """Write mtail's program: each signature's expressions as one, and what it counted.

    Go's engine counts to 1000: what may be repeated more often may be for ever there.
    """
    parts = []
    for number, signature in enumerate(ruleset.signatures):
        forms = [f"(?:{plain(p)})" for p in signature.any]
        expression = _LONG.sub(lambda m: "*" if m[1] == "0" else "+", "|".join(forms))
        expression = expression.replace("/", r"\/")
        parts.append(f"counter s{number}\n/{expression}/ {{\n  s{number}++\n}}\n")
    path.write_text("".join(parts))


def mtail_command(program: Path, folder: Path, logs: Path) -> list[str]:
    """The command that reads all logs once; its own logs go to `logs`."""
    files = [f"-logs={p}" for p in files_of(folder)]
    flags = ["-one_shot", "-max_regexp_length=100000", f"-log_dir={logs}"]
    return ["mtail", *flags, f"-progs={program}", *files]


def files_of(folder: Path) -> list[Path]:
    """The logs below a folder."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def lines_by_ripgrep(output: bytes) -> int:
    """What `rg -c` counted in all files."""
    return sum(int(row.rpartition(b":")[2]) for row in output.splitlines())


def hits_by_mtail(output: bytes) -> Counter[int]:
    """What mtail's counters say."""
    table = json.loads(output[output.index(b"{") :])
    values = {name: rows[0]["LabelValues"] for name, rows in table.items()}
    return Counter({int(n[1:]): v[0]["Value"]["Value"] for n, v in values.items() if v})


def lines_by_wc(output: bytes) -> int:
    """The total that `wc -l` counted: the last row's."""
    return int(output.splitlines()[-1].split()[0])


def counted(engine: Engine, folder: Path) -> Counted:
    """Count with raywatch's own matcher, over whole chunks as it reads them."""
    found = Counted()
    for path in files_of(folder):
        for lines in _whole_lines(path):
            packed = engine.matcher.packed(lines)
            found.lines += len({p >> HIT_BITS for p in packed})
            found.hits.update(p & _MASK for p in packed)
    return found


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block + stream.readline()
