"""The configuration: every mistake is one line with file, line and what would be right."""

from pathlib import Path

import pytest

from raywatch.collect.cloud import LINK_LOCAL, hinted
from raywatch.collect.kubernetes import Access
from raywatch.config import DASHBOARD, ConfigError, load_config, parse_address
from raywatch.core.signature_files import parse_signatures
from raywatch.model import RunRule
from raywatch.notice import NoticeHook
from raywatch.pipeline import load_ruleset

CLASSES = load_ruleset().classes.keys()
GOOD = """
[ray]
dashboard = "http://10.0.0.1:8265"
[listen]
address = "0.0.0.0:9000"
hosts = ["watch.example"]
[[resume]]
run = "llm-*"
mode = "auto"
classes = ["spot_preemption"]
max_attempts = 3
backoff_s = 5
hook = {kind = "job"}
[[resume]]
run = "*"
mode = "suggest"
hook = {kind = "command", argv = ["restart", "--now"], timeout_s = 60}
"""


def load(tmp_path: Path, text: str, **env: str):
    """Read a configuration text."""
    path = tmp_path / "raywatch.toml"
    path.write_text(text)
    return load_config(path, env, CLASSES)


def test_a_whole_file_is_read(tmp_path):
    """Every section."""
    found = load(tmp_path, GOOD)
    first, second = found.resume

    assert (found.dashboard, found.host, found.port) == ("http://10.0.0.1:8265", "0.0.0.0", 9000)
    assert (first.run, first.mode, first.classes, first.max_attempts, first.backoff_s) == (
        "llm-*",
        "auto",
        ("spot_preemption",),
        3,
        5.0,
    )
    assert (second.hook.argv, second.hook.timeout_s, second.settle_s) == (
        ("restart", "--now"),
        60.0,
        75.0,
    )


def test_a_cloud_is_asked_where_it_is_named(tmp_path):
    """By default only where the machine's firmware names one; never with `none`."""
    assert load(tmp_path, "[cloud]\nprovider = 'gcp'").clouds == {"gcp": LINK_LOCAL}
    assert load(tmp_path, "[cloud]\nprovider = 'none'").clouds == {}
    assert load(tmp_path, "").clouds == dict.fromkeys(hinted(), LINK_LOCAL)


def test_kubernetes_is_watched_where_a_service_account_is_mounted(tmp_path):
    """By default only there; what KubeRay and the kubelet put into the environment says where and what."""
    folder = tmp_path / "account"
    folder.mkdir()
    said = f"[kubernetes]\nservice_account = '{folder}'\n"
    assert load(tmp_path, said).kubernetes is None
    assert load(tmp_path, "").kubernetes is None
    (folder / "token").write_text("t")
    (folder / "namespace").write_text("team\n")
    default = "https://kubernetes.default.svc"
    assert load(tmp_path, said).kubernetes == Access(
        default, "team", "", folder, is_asked_for=False
    )
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    env |= {"RAY_CLUSTER_NAME": "llm", "RAY_CLUSTER_NAMESPACE": "ml"}
    path = tmp_path / "raywatch.toml"
    path.write_text(said)
    found = load_config(path, env, CLASSES).kubernetes
    assert found == Access("https://[fd00::1]:6443", "ml", "llm", folder, is_asked_for=False)
    assert load_config(path, {"RAY_NODE_TYPE_NAME": "workers"}, CLASSES).kubernetes is None
    assert load_config(path, {"RAY_NODE_TYPE_NAME": "headgroup"}, CLASSES).kubernetes is not None
    named = said + "cluster = 'a'\nnamespace = 'b'\nurl = 'http://127.0.0.1:8001/'"
    assert load(tmp_path, named).kubernetes == Access(
        "http://127.0.0.1:8001", "b", "a", is_asked_for=False
    )
    asked = load(tmp_path, said + "enabled = true").kubernetes
    assert asked is not None
    assert asked.is_asked_for
    assert load(tmp_path, said + "enabled = false").kubernetes is None


def test_without_a_file_the_defaults_hold():
    """And the environment says where the dashboard is."""
    assert load_config(None, {}, CLASSES).dashboard == DASHBOARD
    env = {"RAY_ADDRESS": "http://h:1", "RAY_API_SERVER_ADDRESS": ""}
    assert load_config(None, env, CLASSES).dashboard == "http://h:1"
    assert load_config(None, {"RAY_ADDRESS": "10.0.0.1:6379"}, CLASSES).dashboard == DASHBOARD
    assert load_config(None, {}, CLASSES).resume == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[ray]\n\ndashbord = 'x'",
            "raywatch.toml:3: unknown key dashbord; did you mean dashboard?",
        ),
        ("[ray]\ndashboard = 'h:1'", "raywatch.toml:2: dashboard 'h:1' must be a URL"),
        (
            "[cloud]\nprovider = 'amazon'",
            "raywatch.toml:2: provider 'amazon' must be one of auto, none, aws",
        ),
        (
            "[cloud]\nurl = '169.254.169.254'",
            "raywatch.toml:2: url '169.254.169.254' must be a URL, like",
        ),
        ("[kubernetes]\nenabled = 'yes'", "raywatch.toml:2: enabled must be true, false or"),
        ("[kubernetes]\nenabled = 1", "raywatch.toml:2: enabled must be true, false or"),
        ("[kubernetes]\nenabled = true", "raywatch.toml:2: enabled, but /var/run/secrets/"),
        (
            "[kubernetes]\nenabled = true\nurl = 'http://x'\ncluster = '../a?b'",
            "raywatch.toml:4: cluster '../a?b' is no name in Kubernetes",
        ),
        ("[listen]\naddress = '9265'", "raywatch.toml:2: address '9265' must be HOST:PORT"),
        ("[listen]\naddress = 'h:²'", "raywatch.toml:2: address 'h:²' must be HOST:PORT"),
        ("x = 1", "raywatch.toml:1: unknown key x"),
        ("[ray\n", "raywatch.toml:1: not TOML"),
        ("[[resume]]\nrun = 'a'\nhook = {kind = 'job'}", "raywatch.toml:1: mode is missing"),
        (
            "[[resume]]\nrun = 'a'\nmode = 'yes'\nhook = {kind = 'job'}",
            "raywatch.toml:3: mode 'yes' must be one of",
        ),
        (GOOD.replace("spot_preemption", "spot_premption"), "did you mean spot_preemption?"),
        (
            GOOD.replace('kind = "job"', 'kind = "webhook"'),
            "hook kind 'webhook' must be job or command",
        ),
        (
            GOOD.replace("max_attempts = 3", "max_attempts = 'x'"),
            "raywatch.toml:11: max_attempts must be a whole number",
        ),
        (GOOD.replace("backoff_s = 5", "backoff_s = nan"), "times must be 0 or more"),
        (GOOD.replace('argv = ["restart", "--now"]', "argv = []"), "needs argv"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, said):
    """File, line, what, and what would be right."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_addresses():
    """HOST:PORT, also of IPv6."""
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address("h:99999") is None


def test_hooks_of_notices_are_read(tmp_path):
    """A drain needs nothing more; a command has its program."""
    first, second = load(
        tmp_path,
        """
[[notice]]
hook = {kind = "drain"}
[[notice]]
name = "save"
kinds = ["rebalance", "maintenance"]
hook = {kind = "command", argv = ["save-now"], timeout_s = 5}
""",
    ).notices

    assert first == NoticeHook("drain", "drain", ("ray",))
    assert second == NoticeHook("command", "save", ("save-now",), ("rebalance", "maintenance"), 5.0)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("[notice]\nhook = {kind = 'drain'}", 1, "[[notice]]"),
        ("[[notice]]\nkinds = ['preemption']", 1, "hook is missing"),
        ("[[notice]]\nhook = {kind = 'drian'}", 2, "drain or command"),
        ("[[notice]]\nhook = {kind = 'drain', argv = ['x']}", 2, "takes no argv"),
        ("[[notice]]\nhook = {kind = 'command'}", 2, "needs argv"),
        ("[[notice]]\nkinds = ['rebalance']\nhook = {kind = 'drain'}", 3, "the machine may stay"),
        ("[[notice]]\nkinds = ['spot']\nhook = {kind = 'drain'}", 2, "must be one of preemption"),
        ("[[notice]]\nhook = {kind = 'command', argv = ['x'], timeout_s = 0}", 2, "more than 0"),
        ("[[notice]]\nhook = {kind = 'drain'}\n" * 2, 3, "are named 'drain'"),
    ],
)
def test_a_mistake_in_a_notice_is_one_line(tmp_path, text, line, what):
    """With its line and what would be right."""
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)

    assert str(error.value).startswith(f"raywatch.toml:{line}: ")
    assert what in str(error.value)


LOOP = """
[ray]
dashboard = "http://10.0.0.1:8265"
[[run]]
name = "loop"
match = "python loop.py*"
framework = "plain"
storage = "/s"
[[run]]
name = "own"
match = "raysubmit_*"
step = 'batch=(?P<step>\\d+)'
checkpoint = 'wrote (?P<path>\\S+)'
"""


def test_a_run_is_declared(tmp_path):
    """By a preset, whose file joins the signatures, or by expressions, which are signatures on their own lines."""
    found = load(tmp_path, LOOP).declared

    assert found.rules == (
        RunRule("loop", "python loop.py*", "plain", "/s"),
        RunRule("own", "raysubmit_*", own=("run_step", "run_checkpoint")),
    )
    assert [Path(p).name for p in found.presets] == ["plain.yaml"]
    parsed = [s for name, text in found.texts for s in parse_signatures(text, name, {})]
    assert [(s.path, s.line, s.fact, s.constants["declared"]) for s in parsed] == [
        ("raywatch.toml", 12, "run_step", "own"),
        ("raywatch.toml", 13, "run_checkpoint", "own"),
    ]


@pytest.mark.parametrize(
    ("wrong", "line", "right"),
    [
        ("framework = 'horovd'", 4, "framework 'horovd' must be one of plain, horovod"),
        ("frame = 'plain'", 4, "did you mean framework?"),
        ("storage = '/s'", 1, "a [[run]] needs a framework, or a step or checkpoint expression"),
        ("step = 12", 4, "step must be a text"),
        ("step = 'batch=(\\d+)'", 4, "must name what it captures: (?P<step>...)"),
        ("checkpoint = 'to (?P<step>\\S+)'", 4, "must name what it captures: (?P<path>...)"),
        ("step = 'batch=(?P<step>'", 4, "step is no regular expression"),
        ("step = '(?P<step>\\d+)'", 4, "name a word of the message"),
        ("step = 'batch(?=x)(?P<step>\\d+)'", 4, "looks ahead"),
        ("framework = 'plain'\n[[run]]\nname = 'x'\nmatch = 'b'\nframework = 'verl'", 6, "twice"),
    ],
)
def test_a_mistake_in_a_run_is_one_line(tmp_path, wrong, line, right):
    """With what would be right."""
    with pytest.raises(ConfigError) as found:
        load(tmp_path, f"[[run]]\nname = 'x'\nmatch = 'a'\n{wrong}\n")

    assert str(found.value).startswith(f"raywatch.toml:{line}: ")
    assert right in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("key", ["name", "match"])
def test_a_run_has_a_name_and_says_whom_it_means(tmp_path, key):
    """Neither is guessed."""
    rows = {"name": "name = 'x'", "match": "match = 'a'", "framework": "framework = 'plain'"}
    del rows[key]
    with pytest.raises(ConfigError, match=f"{key} is missing from"):
        load(tmp_path, "\n".join(["[[run]]", *rows.values()]))
