from __future__ import annotations

import copy
import errno
import json
import logging
import os
import pickle
import re
import threading
from pathlib import Path

import pytest

from sdwebui_api.config.option_sections import WITHOUT_EFFECT
from sdwebui_api.config.option_table import OPTION_TABLE
from sdwebui_api.config.options import Options, OptionStore, coerce_values, write_json_atomically
from sdwebui_api.errors import BadRequest, NotStored

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    return OptionStore(tmp_path / "config.json")


def test_defaults_are_those_of_a1111_with_its_number_types(golden_api):
    recorded = json.loads((golden_api / "get-options.json").read_text())["response"]
    ours = Options().as_dict()
    left_out = {name for name in recorded if name.endswith("_explanation")} | {"settings_in_ui"}
    of_the_recording_machine = {"sd_model_checkpoint", "sd_checkpoint_hash"}
    assert recorded.keys() - ours.keys() == left_out
    assert ours.keys() - recorded.keys() == {"use_native_default_size"}
    for name in recorded.keys() - left_out - of_the_recording_machine:
        assert repr(ours[name]) == repr(recorded[name]), name


def test_every_setting_is_read_or_said_to_be_without_effect():
    """The other direction, that nothing of `WITHOUT_EFFECT` is read: `tests/webui/test_settings.py`."""
    tables = ("option_table.py", "option_sections.py", "labels.py", "response_schema.py")
    package, extensions, scripts = (ROOT / name for name in ("sdwebui_api", "extensions", "scripts"))
    sources = [*package.rglob("*.py"), *extensions.rglob("*.py"), *scripts.glob("*.py"), *package.rglob("assets/*.js")]
    read = re.compile(r"[.\"'](\w+)\b(?!=)")
    words = {
        word for path in sources if path.name not in tables for word in read.findall(path.read_text(encoding="utf-8"))
    }
    by_prefix = {f"{kind}_{what}" for kind in ("ESRGAN", "DAT") for what in ("tile", "tile_overlap")}
    assert OPTION_TABLE.keys() - words - by_prefix - WITHOUT_EFFECT == set()


def test_every_default_is_acceptable_to_its_own_option():
    for name, spec in OPTION_TABLE.items():
        assert spec.coerce(spec.wire(spec.default), name) == spec.default


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [
        ("CLIP_stop_at_last_layers", "12", 12),
        ("CLIP_stop_at_last_layers", 2.0, 2),
        ("eta_ancestral", "0.5", 0.5),
        ("eta_noise_seed_delta", "31337", 31337),
        ("img2img_color_correction", "true", True),
        ("img2img_color_correction", 0, False),
        ("randn_source", "nv", "NV"),
        ("emphasis", "no NORM", "No norm"),
        ("samples_format", "JPG", "jpg"),
        ("sd_vae", 123, "123"),
        ("hide_samplers", ["LMS"], ("LMS",)),
        ("grid_background_color", "#FFF", "#FFF"),
        ("eta_ddim", None, 0.0),
        ("sd_model_checkpoint", None, None),
    ],
)
def test_exact_conversions(name, value, held):
    merged = Options().merged({name: value})
    assert merged[name] == held and type(merged[name]) is type(held)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLIP_stop_at_last_layers", "abc"),
        ("CLIP_stop_at_last_layers", 0),
        ("CLIP_stop_at_last_layers", 99),
        ("CLIP_stop_at_last_layers", 1.5),
        ("CLIP_stop_at_last_layers", True),
        ("CLIP_stop_at_last_layers", [1]),
        ("eta_ddim", -0.1),
        ("eta_ancestral", float("nan")),
        ("s_churn", float("inf")),
        ("s_churn", "nan"),
        ("s_noise", "1e999"),
        ("eta_noise_seed_delta", 10**400),
        ("img2img_color_correction", "maybe"),
        ("img2img_color_correction", 2),
        ("randn_source", "XPU"),
        ("emphasis", 1),
        ("sd_vae", {"a": 1}),
        ("sd_vae", True),
        ("sd_model_checkpoint", "x" * 100_000),
        ("hide_samplers", "LMS"),
        ("hide_samplers", [["LMS"]]),
        ("img2img_background_color", "url(x)"),
    ],
)
def test_wrong_values_are_refused_by_name(name, value):
    with pytest.raises(BadRequest) as refused:
        Options().merged({name: value})
    assert refused.value.field == f"override_settings.{name}"
    assert refused.value.status == 422
    assert len(refused.value.message) < 300


def test_a_refusal_says_what_would_be_accepted():
    with pytest.raises(BadRequest, match="from 1 to 12"):
        Options().merged({"CLIP_stop_at_last_layers": 99})
    with pytest.raises(BadRequest, match="GPU, CPU, NV") as refused:
        Options().merged({"randn_source": "XPU"})
    assert refused.value.choices == ("GPU", "CPU", "NV")


def test_unknown_names_give_a_warning_with_the_nearest_name():
    accepted, warnings = coerce_values({"randn_sorce": "NV", "eta_ddim": 1}, "options")
    assert accepted == {"eta_ddim": 1.0}
    assert len(warnings) == 1 and "'randn_sorce'" in warnings[0] and "'randn_source'" in warnings[0]


def test_restricted_options_and_explanations_are_left_alone_silently():
    body = {"api_enable_requests": False, "sd_checkpoint_hash": "x", "sd_vae_explanation": "…", "settings_in_ui": "…"}
    assert coerce_values(body, "options") == ({}, [])


def test_options_read_like_attributes_and_like_a_mapping():
    options = Options()
    assert options.randn_source == options["randn_source"] == options.get("randn_source") == "GPU"
    assert options.get("no_such", 5) == 5
    with pytest.raises(AttributeError):
        _ = options.no_such
    merged = options.merged({"randn_source": "NV"})
    assert (options.randn_source, merged.randn_source) == ("GPU", "NV")
    assert copy.deepcopy(merged) == merged == pickle.loads(pickle.dumps(merged))


def test_the_store_persists_what_differs(store, tmp_path):
    store.update({"randn_source": "NV", "CLIP_stop_at_last_layers": "2"})
    assert json.loads((tmp_path / "config.json").read_text()) == {"randn_source": "NV", "CLIP_stop_at_last_layers": 2.0}
    again = OptionStore(tmp_path / "config.json").snapshot()
    assert (again.randn_source, again.CLIP_stop_at_last_layers) == ("NV", 2)
    store.update({"randn_source": None})
    assert OptionStore(tmp_path / "config.json").snapshot().randn_source == "GPU"


def test_a_snapshot_never_changes(store):
    before = store.snapshot()
    store.update({"randn_source": "NV"})
    assert before.randn_source == "GPU" and store.snapshot().randn_source == "NV"


def test_an_update_is_all_or_nothing(store, tmp_path):
    with pytest.raises(BadRequest) as refused:
        store.update({"randn_source": "NV", "eta_ddim": "x"})
    assert refused.value.field == "options.eta_ddim"
    assert store.snapshot().randn_source == "GPU"
    assert not (tmp_path / "config.json").exists()


def test_the_whole_object_of_a1111_can_be_posted_back(store, golden_api):
    recorded = json.loads((golden_api / "get-options.json").read_text())["response"]
    warnings = store.update({**recorded, "forge_preset": None, "randn_source": "NV"})
    assert store.snapshot().randn_source == "NV"
    assert len(warnings) == 1 and "forge_preset" in warnings[0]


def test_our_own_whole_object_changes_nothing(store, tmp_path):
    assert store.update(store.snapshot().as_dict()) == []
    assert not (tmp_path / "config.json").exists()


def test_a_config_of_a1111_keeps_its_foreign_keys(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"control_net_unit_count": 3, "randn_source": "CPU", "eta_ddim": "broken"}))
    store = OptionStore(path)
    assert (store.snapshot().randn_source, store.snapshot().eta_ddim) == ("CPU", 0.0)
    store.update({"samples_format": "webp"})
    assert json.loads(path.read_text())["control_net_unit_count"] == 3


@pytest.mark.parametrize("contents", ["{", "[]", "\x00\xff", "[" * 100_000])
def test_a_corrupt_file_is_moved_aside(tmp_path, contents, caplog):
    path = tmp_path / "config.json"
    path.write_text(contents, encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        store = OptionStore(path)
    assert store.snapshot() == Options()
    assert (tmp_path / "config.json.broken").exists() and str(path) in caplog.text
    store.update({"randn_source": "NV"})
    assert OptionStore(path).snapshot().randn_source == "NV"


def test_frozen_settings_refuse_changes_only(tmp_path):
    store = OptionStore(tmp_path / "config.json", frozen_names=["randn_source"])
    store.update({"randn_source": "GPU", "eta_ddim": 0.5})
    with pytest.raises(BadRequest, match="frozen"):
        store.update({"randn_source": "NV"})
    with pytest.raises(BadRequest, match="frozen"):
        OptionStore(tmp_path / "config.json", frozen=True).update({"eta_ddim": 0})


def test_settings_that_cannot_be_saved_are_not_taken_over(tmp_path):
    (tmp_path / "file").touch()
    store = OptionStore(tmp_path / "file" / "config.json")
    with pytest.raises(NotStored, match="could not be saved"):
        store.update({"randn_source": "NV"})
    assert store.snapshot().randn_source == "GPU"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_disk_that_refuses_is_told_with_its_folder(tmp_path, monkeypatch, number, reason):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    store = OptionStore(tmp_path / "config.json")
    store.update({"eta_ddim": 0.5})
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(NotStored, match=reason) as caught:
        store.update({"randn_source": "NV"})
    assert caught.value.status == 507 and str(tmp_path) in caught.value.message
    assert store.snapshot().randn_source == "GPU" and os.listdir(tmp_path) == ["config.json"]


def test_updates_from_many_threads_are_all_kept(store, tmp_path):
    names = ["eta_ddim", "s_noise", "rho", "s_churn", "s_tmin", "s_tmax", "sigma_min", "sigma_max"]
    threads = [threading.Thread(target=store.update, args=({name: 0.25},)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((tmp_path / "config.json").read_text()) == dict.fromkeys(names, 0.25)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomically(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
