"""Finding, ordering and loading scripts; reading their arguments; what a failing hook costs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import ScriptCall
from sdwebui_api.scripting.arguments import Argument, Arguments, UnknownScript, read_arguments
from sdwebui_api.scripting.chain import HookChain, Part
from sdwebui_api.scripting.extensions import Switches, find_extensions, script_files
from sdwebui_api.scripting.hooks import Draft, Hooks, Script
from sdwebui_api.scripting.host import ScriptHost

NATIVE = """
from sdwebui_api.scripting.hooks import Argument, Hooks, Script

class Brighter(Script):
    title = "{title}"
    always_on = {always_on}
    args = (Argument("factor", 1.5, "Factor", 0, 4, 0.1), Argument("on", True, "On"))
"""


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def native(path: Path, title: str, *, always_on: bool = False) -> None:
    write(path, NATIVE.format(title=title, always_on=always_on))


def host_of(home: Path, switches: Switches | None = None) -> ScriptHost:
    extensions = find_extensions([home / "extensions"], home / "extensions", switches or Switches())
    host = ScriptHost(script_files([home], extensions), extensions)
    host.load()
    return host


def test_scripts_are_found_and_listed(tmp_path):
    native(tmp_path / "scripts" / "b.py", "Second")
    native(tmp_path / "scripts" / "a.py", "First")
    native(tmp_path / "extensions" / "x" / "scripts" / "c.py", "Always", always_on=True)
    write(tmp_path / "scripts" / "broken.py", "1 / 0")
    host = host_of(tmp_path)
    assert host.titles("txt2img", always_on=False) == ["first", "second"]
    assert host.titles("img2img", always_on=True) == ["always"]
    assert [*host.failures.values()] == ["ZeroDivisionError: division by zero"]
    rows = host.rows("img2img", SimpleNamespace(), always_on=True)
    assert rows[0]["name"] == "always" and rows[0]["is_img2img"] is True
    assert rows[0]["args"][0] == {
        "label": "Factor", "value": 1.5, "minimum": 0, "maximum": 4, "step": 0.1, "choices": None
    }  # fmt: skip


def test_the_first_of_two_titles_is_kept(tmp_path):
    native(tmp_path / "scripts" / "a.py", "Same")
    native(tmp_path / "scripts" / "b.py", "SAME")
    host = host_of(tmp_path)
    assert host.titles("txt2img", always_on=False) == ["same"]
    assert "another script" in next(iter(host.failures.values()))


def test_metadata_orders_files(tmp_path):
    extensions = tmp_path / "extensions"
    for name in ("alpha", "beta", "gamma"):
        native(extensions / name / "scripts" / "s.py", name)
    write(extensions / "alpha" / "metadata.ini", "[Extension]\nName = Alpha\n[scripts/s.py]\nAfter = gamma\n")
    write(extensions / "beta" / "metadata.ini", "[Extension]\nName = beta\nRequires = missing\nBefore = gamma\n")
    files = script_files([tmp_path], find_extensions([extensions], None, Switches()))
    assert [file.base.name for file in files] == ["beta", "gamma", "alpha"]


def test_a_circle_in_metadata_is_cut(tmp_path, caplog):
    for name, other in (("a", "b"), ("b", "a")):
        write(tmp_path / name / "scripts" / "s.py")
        write(tmp_path / name / "metadata.ini", f"[Extension]\nAfter = {other}\n")
    files = script_files([], find_extensions([tmp_path], None, Switches()))
    assert len(files) == 2 and "circular" in caplog.text


@pytest.mark.parametrize(
    ("switches", "enabled"),
    [
        (Switches(), {"ours": True, "theirs": True}),
        (Switches(all_by_flag=True), {"ours": False, "theirs": False}),
        (Switches(extra_by_flag=True), {"ours": True, "theirs": False}),
        (Switches(disable_all="extra"), {"ours": True, "theirs": False}),
        (Switches(disable_all="all"), {"ours": False, "theirs": False}),
        (Switches(disabled=frozenset({"ours"})), {"ours": False, "theirs": True}),
    ],
)
def test_switches(tmp_path, switches, enabled):
    write(tmp_path / "ours" / "metadata.ini", "[Extension]\nBuiltin = true\n")
    (tmp_path / "theirs").mkdir()
    found = find_extensions([tmp_path], tmp_path, switches)
    assert {extension.name: extension.enabled for extension in found} == enabled


def test_git_facts(tmp_path):
    def git(*args: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(tmp_path / "x"), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    write(tmp_path / "x" / "scripts" / "a.py")
    git("init", "-q", "-b", "main")
    git("remote", "add", "origin", "https://example.org/x.git")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    row = find_extensions([tmp_path], None, Switches())[0].row()
    commit = git("rev-parse", "HEAD")
    assert row["remote"] == "https://example.org/x.git" and row["branch"] == "main" and row["enabled"] is True
    assert row["commit_hash"] == commit and row["version"] == commit[:8]
    assert row["commit_date"] == int(git("log", "-1", "--format=%ct"))
    git("pack-refs", "--all")
    assert find_extensions([tmp_path], None, Switches())[0].row()["commit_hash"] == commit


DECLARED = (Argument("loops", 4, "Loops"), Argument("strength", 0.5), Argument("on", False), Argument("text", ""))


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (None, (4, 0.5, False, "")),
        ([], (4, 0.5, False, "")),
        ([2], (2, 0.5, False, "")),
        ([2.0, 1, 1, "x", "too", "many"], (2, 1.0, True, "x")),
        ({"LOOPS": 3, "text": "y"}, (3, 0.5, False, "y")),
        ([{"strength": 1}], (4, 1.0, False, "")),
        ([None, None], (4, 0.5, False, "")),
    ],
)
def test_arguments(given, values):
    assert read_arguments(DECLARED, given, "script_args").positional() == values


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (["x"], "script_args[0]"),
        ([1, "x"], "script_args[1]"),
        ([1, 1, "maybe"], "script_args[2]"),
        ([1, 1, True, 5], "script_args[3]"),
        ({"nothing": 1}, "script_args"),
        ("text", "script_args"),
    ],
)
def test_wrong_arguments(given, field):
    with pytest.raises(BadRequest) as caught:
        read_arguments(DECLARED, given, "script_args")
    assert caught.value.field == field and caught.value.status == 422


def test_what_a_client_names(tmp_path):
    native(tmp_path / "scripts" / "a.py", "Choose Me")
    native(tmp_path / "scripts" / "b.py", "Always", always_on=True)
    host = host_of(tmp_path)
    chosen = host.read("txt2img", SimpleNamespace(), " choose ME", [2], {"ALWAYS": {"args": {"on": False}}})
    assert chosen.script == ScriptCall("Choose Me", Arguments({"factor": 2.0, "on": True}))
    assert chosen.always_on[0].args["on"] is False
    assert host.read("txt2img", SimpleNamespace(), None, [], {"always": [], "Always ": {}}).always_on == ()
    for name, always_on in (("Always", {}), ("nobody", {}), (None, {"nobody": {}}), (None, {"choose me": {}})):
        with pytest.raises(UnknownScript):
            host.read("txt2img", SimpleNamespace(), name, [], always_on)


class Adds(Hooks):
    def __init__(self, text: str) -> None:
        self.text = text

    def before_process(self, request: Any, run: Any) -> Any:
        if self.text == "!":
            raise ValueError("no")
        return request + self.text

    def process(self, draft: Draft, run: Any) -> Draft:
        raise BadRequest("refused", field="script_args")


def test_hooks_are_called_in_order_and_fail_alone():
    run: Any = SimpleNamespace(warnings=[])
    chain = HookChain([Part(text, Adds(text)) for text in ("a", "!", "b")], run)
    request: Any = ">"
    assert chain.before_process(request) == ">ab"
    assert chain.before_process(request) == ">ab"
    assert run.warnings == ["script '!' failed in before_process: ValueError: no"]
    with pytest.raises(BadRequest):
        chain.process(Draft(request, request))
    assert chain.has("process") and not chain.has("blend") and chain.per_evaluation is None and chain.blending is None


def test_always_on_scripts_run_with_defaults_and_keep_state_per_request():
    class Counting(Script):
        title = "Counting"
        always_on = True
        args = (Argument("text", "d"),)

        def hooks(self, request: Any, args: Arguments) -> Hooks | None:
            return Adds(args.text) if args.text else None

    host = ScriptHost()
    host.add(Counting())
    run: Any = SimpleNamespace(warnings=[])

    def parts(*calls: ScriptCall) -> list[Part]:
        return host.parts(SimpleNamespace(kind="txt2img", always_on=calls), run)  # type: ignore[arg-type]

    first, second = parts(), parts(ScriptCall("counting", {"text": "x"}))
    assert first[0].hooks.text == "d" and second[0].hooks.text == "x"  # type: ignore[attr-defined]
    assert parts(ScriptCall("Counting", {"text": ""})) == []
