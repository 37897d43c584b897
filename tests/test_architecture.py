"""The laws of the house: who may import whom, what is pure, how long things may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "raywatch"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Room -> what of ours it may import; a room is a top module or a folder. `wiring` may import everything but tui.
MAY_IMPORT = {
    "model": set(),
    "bundles": set(),
    "observations": {"bundles"},
    "core": {"model", "observations", "core", "bundles", "linecount", "protojson"},
    "notice": set(),
    "collect": {
        "model",
        "notice",
        "observations",
        "collect",
        "bundles",
        "httpbody",
        "protojson",
    },
    "resume": {"model", "notice", "resume", "httpbody"},
    "store": {"model"},
    "families": set(),
    "metrics": {"families", "model"},
    "exposition": {"metrics", "httpbody"},
    "web": {"model", "httpbody"},
    "resources": set(),
    "terminal": set(),
    "httpbody": set(),
    "linecount": set(),
    "protojson": set(),
    "ahead": set(),
    "archive": {"model", "collect", "ahead", "objects", "unpack"},
    "objects": set(),
    "unpack": {"ahead"},
    "nodes": {"model", "collect"},
    "progress": {"terminal"},
    "errors": set(),
    "demo_train": set(),
    "tui": {"model", "tui", "terminal"},
    # A client of the API from the outside: the shapes that it shows, never what computes them.
    "client": {
        "model",
        "core",
        "capacitytables",
        "nodetables",
        "noticetables",
        "tables",
        "terminal",
    },
    "layout": {"terminal"},
    "capacitytables": {"core", "layout", "terminal"},
    "nodetables": {"core", "layout", "terminal"},
    "noticetables": {"layout"},
    "tables": {"core", "layout", "runbooks", "terminal"},
    "runbooks": {"model", "resources"},
    "options": {"client", "resources"},
    "cli_rules": {"options", "core", "pipeline", "trying"},
    "reading": {"model", "core", "pipeline", "linecount"},
    "pace": {"families"},
    "unwrapped": {"model", "core", "pipeline", "reading", "linecount"},
    "explained": {"model", "core", "runbooks", "terminal"},
    "examining": {"model", "core", "pipeline"},
    "compiled": {"core"},
    "pipeline": {"model", "core", "collect", "compiled", "resources"},
    "pieces": {"model", "collect", "archive", "nodes", "pipeline", "reading", "unwrapped"},
    "spread": {"archive", "collect", "pieces", "pipeline", "processes"},
    "processes": {"archive", "pieces", "pipeline"},
}
SHELL_ROOMS = {"collect", "resume", "store", "metrics", "web"}
WIRING = {
    "cli",
    "config",
    "declaring",
    "counting",
    "runrows",
    "traffic",
    "daemon",
    "following",
    "settling",
    "sight",
    "scan",
    "trying",
    "explain",
    "demo",
    "memory",
    "onray",
    "resuming",
    "noticing",
    "answering",
    "lifetime",
    "pods",
    "cluster",
    "pushing",
    "inbox",
    "asking",
    "demo_cluster",
    "demo_watch",
    "service",
    "reloading",
    "shown",
    "doctor",
    "__main__",
    "__init__",
}
IMPURE = {
    "time",
    "random",
    "os",
    "socket",
    "threading",
    "logging",
    "pathlib",
    "subprocess",
    "asyncio",
    "sqlite3",
}
MAX_MODULE, MAX_FUNCTION = 450, 60
MAX_MODEL = 600  # nouns only: one list of what there is


def room_of(path: Path) -> str:
    """The top module or folder that a file belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(tree: ast.AST):
    """Every module that a file imports, lazily too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{a.name}" for a in node.names if node.module == "raywatch")


def broken_laws(room: str, text: str) -> list[str]:
    """Return the laws that a file of `room` breaks."""
    tree = ast.parse(text)
    names = set(imports(tree))
    ours = {n.split(".")[1] for n in names if n.startswith("raywatch.")}
    wrong = []
    if room in MAY_IMPORT:
        wrong += [f"{room} imports {n}" for n in sorted(ours - MAY_IMPORT[room])]
    elif room not in WIRING:
        wrong.append(f"room {room} is not in the plan of the house")
    tops = {n.split(".")[0] for n in names}
    # The program that the demo submits: Ray runs it, nobody imports it. `scan --on-ray`: Ray is the engine that was
    # asked for, and imported only then (the test below).
    wrong += ["imports ray"] * ("ray" in tops and room not in ("demo_train", "onray"))
    wrong += ["imports textual"] * ("textual" in tops and room != "tui")
    wrong += ["imports hyperscan"] * ("hyperscan" in tops and room != "core")
    if room in ("core", "model"):
        wrong += [f"is not pure: {n}" for n in sorted(tops & IMPURE)]
        wrong += ["is not pure: open()"] * ("open" in called(tree))
    wrong += [
        f"is {n} lines long"
        for n in [text.count("\n")]
        if n > (MAX_MODEL if room == "model" else MAX_MODULE)
    ]
    wrong += [f"{f.name} is too long" for f in functions(tree) if length(f) > MAX_FUNCTION]
    if broad_handlers(tree) and room not in ("daemon", "resume"):
        wrong.append("catches everything")
    return wrong


def called(tree: ast.AST) -> set[str]:
    """Plain names that are called."""
    return {
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }


def functions(tree: ast.AST):
    """All functions of a file."""
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def broad_handlers(tree: ast.AST) -> bool:
    """Whether a handler takes everything."""
    caught = [n.type for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    return any(t is None or ast.unparse(t) in ("Exception", "BaseException") for t in caught)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_keeps_the_laws(path):
    """Imports, purity, sizes and handlers are as the design says."""
    assert broken_laws(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "text", "law"),
    [
        ("core", "import time", "is not pure: time"),
        ("core", "def f():\n    open('x')", "is not pure: open()"),
        ("core", "from raywatch.collect import raylogs", "core imports collect"),
        ("web", "from raywatch.store import Store", "web imports store"),
        ("scan", "def f():\n    import ray.util", "imports ray"),
        ("scan", "import textual.app", "imports textual"),
        ("web", "import hyperscan", "imports hyperscan"),
        ("attic", "", "room attic is not in the plan of the house"),
        ("scan", "try:\n    f()\nexcept Exception:\n    g()", "catches everything"),
        ("scan", "def f():\n" + "    x = 1\n" * 61, "f is too long"),
    ],
)
def test_the_laws_can_be_broken(room, text, law):
    """Each law finds a file that breaks it."""
    assert broken_laws(room, text) == [law]


def test_ray_is_imported_only_where_it_is_asked_for():
    """The only importers of ray are imported by nothing that any other verb loads."""
    verbs = sorted({p.stem for p in PACKAGE.glob("*.py")} - {"onray", "demo_train", "__main__"})
    code = (
        "; ".join(f"import raywatch.{v}" for v in verbs)
        + "; import sys; print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert done.stdout == b"False\n"


def test_packages_are_empty():
    """`__init__.py` holds nothing but the version."""
    assert [
        str(p) for p in PACKAGE.rglob("__init__.py") if p.read_text() and p.parent != PACKAGE
    ] == []
