from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path

import pytest

from sdwebui_api.config.flags import IDLE, Flags, build_parser, parse_flags

ROOT = Path(__file__).resolve().parents[2]

# What a plain start answers differently from the recording, and why.
RECORDED_WITH = {"no_half", "use_cpu", "api", "nowebui", "port", "models_dir", "styles_file", "server_name"}
RECORDED_WITH |= {"skip_prepare_environment", "skip_python_version_check", "skip_torch_cuda_test", "skip_version_check"}
RECORDED_WITH |= {"do_not_download_clip", "no_download_sd_model", "disable_console_progressbars", "data_dir"}
COMPUTED_IN_PATHS = {"config", "ckpt", "ui_config_file", "ui_settings_file", "gradio_allowed_path"}


def parse(*argv: str, environ: dict[str, str] | None = None) -> Flags:
    return parse_flags(argv, environ or {})


def test_every_flag_of_a1111_exists_with_its_default(golden_api):
    recorded = json.loads((golden_api / "get-cmd-flags.json").read_text())["response"]
    ours = parse().as_dict()
    assert recorded.keys() <= ours.keys()
    different = {name for name in recorded if ours[name] != recorded[name]} - RECORDED_WITH - COMPUTED_IN_PATHS
    assert all(name.endswith(("_dir", "_path", "_dir_backcompat")) and ours[name] is None for name in different)


def test_every_flag_is_read_or_says_that_it_has_no_effect():
    sources = [ROOT / "launch.py", *(ROOT / "extensions").rglob("*.py"), *(ROOT / "sdwebui_api").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    read = set(re.findall(r"\b(?:flags|server|self)\.(\w+)", text))
    read |= {name.replace("-", "_") for name in re.findall(r"[\"'`]--([a-z][a-z-]+)[\"'`]", text)}
    says_so = {
        row.name
        for row in dataclasses.fields(Flags)
        if row.metadata["group"] == IDLE or re.search(r"\baccepted\b|always do here", row.metadata["help"])
    }
    assert {row.name for row in dataclasses.fields(Flags)} - read - says_so == set()


def test_every_flag_of_eas_is_known(caplog):
    command_line = """
        --blade --xformers --filebrowser --data-dir D --api --nowebui --api-log --time-log --enable-nsfw-censor
        --always-hide-tabs Settings Extensions --min-ram-reserved 40 --sd-dynamic-cache --listen --port 8000
        --skip-version-check --no-hashing --no-download-sd-model --skip-prepare-environment --root-extensions
        --lora-dir L --vae-dir V --gfpgan-dir G --embeddings-dir E --hypernetwork-dir H
    """
    assert parse(*command_line.split()).min_ram_reserved == 40
    assert not caplog.records


def test_values_are_typed():
    flags = parse("--port", "8000", "--use-cpu", "ALL", "--max-step-batch", "1", "--always-hide-tabs", "a", "b")
    assert (flags.port, flags.use_cpu, flags.max_step_batch) == (8000, ("all",), 1)
    assert flags.always_hide_tabs == ("a", "b")
    assert parse("--styles-file", "a.csv", "--styles-file", "b.csv").styles_file == ("a.csv", "b.csv")


def test_flags_are_ready_for_json_and_keep_secrets():
    answer = parse("--token", "hunter2", "--api-auth", "user:pass", "--port", "8000").as_dict()
    assert "hunter2" not in json.dumps(answer) and "user:pass" not in json.dumps(answer)
    assert answer["port"] == "8000"
    assert answer["use_cpu"] == []


@pytest.mark.parametrize(
    ("argv", "host"),
    [((), "127.0.0.1"), (("--listen",), "0.0.0.0"), (("--listen", "--server-name", "10.0.0.1"), "10.0.0.1")],
)
def test_host(argv, host):
    assert parse(*argv).host == host


def test_unknown_flags_warn_and_are_ignored(caplog):
    with caplog.at_level(logging.WARNING):
        flags = parse("--no-such-flag", "value", "--listen", "-z")
    assert flags.listen
    assert "--no-such-flag value -z" in caplog.text
    parse("--prot", "3")
    assert "--prot (did you mean --port?) 3" in caplog.text


def test_abbreviations_are_unknown_flags():
    assert not parse("--list").listen


def test_environment_comes_first_and_the_command_line_wins():
    flags = parse("--port", "2", environ={"COMMANDLINE_ARGS": "--port 1 --data-dir '/a b' --no-half"})
    assert (flags.port, flags.data_dir, flags.no_half) == (2, "/a b", True)


@pytest.mark.parametrize(
    "argv", [("--port", "x"), ("--port", "70000"), ("--max-queue", "0"), ("--max-step-batch", "0"), ("--loglevel", "x")]
)
def test_unusable_values_end_the_start(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*argv)
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert argv[0] in told[-1] and "_" not in told[-1] and len(told) <= 2  # the list of all flags would hide it


def test_help_names_every_flag():
    text = build_parser().format_help()
    assert all("--" + name.replace("_", "-") in text for name in Flags().as_dict() if name != "f")
