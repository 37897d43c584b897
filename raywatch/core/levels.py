"""Which of the four levels of fault tolerance a run really has, in a number and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


def fault_tolerance(max_failures: int | None, sizes: Sequence[int]) -> tuple[int | None, str]:
    """Return the level (1 to 4) and why. `sizes` are the worker groups of one controller, oldest first.

    Only an elastic run changes its size under one controller. Unknown is None, never a guess.
    """
    if max_failures == 0:
        return 1, "max_failures=0: a lost worker ends the run"
    shown = " -> ".join(str(s) for s in sizes[-4:])
    if any(b > a for a, b in pairwise(sizes)):
        return 4, f"elastic: goes on with fewer workers and takes new ones in ({shown})"
    if any(b < a for a, b in pairwise(sizes)):
        return 3, f"elastic: goes on with fewer workers ({shown})"
    if max_failures is None:
        return None, "not known: neither the Train state API nor a failure has told max_failures"
    allowed = "any number of" if max_failures < 0 else f"{max_failures}"
    return 2, f"max_failures={max_failures}: Ray Train restarts the group {allowed} times"


class Launched(NamedTuple):
    """What a launcher's command line says of restarts."""

    level: int
    restarts: bool  # the launcher itself starts lost workers again
    reason: str


def launched(entrypoint: str) -> Launched | None:
    """Read a command line of torchrun or horovodrun; None for another one: a script may call either.

    torchrun starts all its workers again up to --max-restarts times (0 by default); --nnodes=MIN:MAX lets it go on with
    fewer nodes and take new ones in (torch/distributed/run.py). horovodrun is elastic with --host-discovery-script
    or --min-num-proc (horovod/runner/launch.py).
    """
    launcher, words = _launcher(entrypoint)
    options = _options(words)
    if launcher == "torchrun":
        return _torchrun(options)
    if launcher == "horovodrun":
        elastic = {"host-discovery-script", "min-np", "min-num-proc"} & options.keys()
        if elastic:
            said = f"horovodrun --{min(elastic)}: goes on with fewer workers and takes new ones in"
            return Launched(4, restarts=True, reason=said)
        return Launched(1, restarts=False, reason="horovodrun: a lost worker ends the run")
    return None


def is_on_one_host(entrypoint: str) -> bool:
    """Say whether a command line starts all its workers on its own host, so that they end with it.

    torchrun: --nnodes is 1 by default; horovodrun: -H, --hosts and --hostfile name others. Of anything else it is not known.
    """
    launcher, words = _launcher(entrypoint)
    options = _options(words)
    if launcher == "torchrun":
        return options.get("nnodes", "1") in ("1", "1:1")
    named = {"hosts", "hostfile", "host-discovery-script"} & options.keys() or "-H" in words
    return launcher == "horovodrun" and not named


def _launcher(entrypoint: str) -> tuple[str, list[str]]:
    """Return which launcher a command line calls, '' for another one, and its words."""
    words = entrypoint.split()
    names = {w.rsplit("/", 1)[-1] for w in words}
    if "torchrun" in names or "torch.distributed.run" in words:
        return "torchrun", words
    return "horovodrun" if "horovodrun" in names else "", words


def _torchrun(options: Mapping[str, str]) -> Launched:
    most, nodes = options.get("max-restarts", "0"), options.get("nnodes", "1")
    if not most.isdigit() or most == "0":
        return Launched(
            1, restarts=False, reason="torchrun --max-restarts=0: a lost worker ends it"
        )
    if ":" in nodes:
        said = f"torchrun --nnodes={nodes} --max-restarts={most}: goes on with the nodes there are"
        return Launched(4, restarts=True, reason=said)
    said = f"torchrun --max-restarts={most}: all workers are started again so often"
    return Launched(2, restarts=True, reason=said)


def _options(words: Sequence[str]) -> dict[str, str]:
    """Return `--name value` and `--name=value`; torchrun spells names with - and with _."""
    found: dict[str, str] = {}
    for word, after in pairwise((*words, "")):
        if word.startswith("--"):
            name, is_given, value = word[2:].partition("=")
            found.setdefault(name.replace("_", "-"), value if is_given else after)
    return found
