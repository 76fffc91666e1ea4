"""Names and folders of users, and their settings above the server's."""

from __future__ import annotations

import json
import unicodedata

import pytest

from sdwebui_api.config.flags import Flags, UserFlags
from sdwebui_api.config.options import OptionStore, UserOptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.config.users import clean_name, folder_name, home_of
from sdwebui_api.errors import BadRequest

ODD = ["../b", "..", ".", "a/b", "a\\b", "/etc", "con", "NUL", "Ann", "ANN", "ann ", "ünï", "李雷", "a" * 128]
ODD.append("a-" + "0" * 16)


@pytest.mark.parametrize("name", ODD)
def test_a_folder_is_one_safe_name(tmp_path, name):
    folder = folder_name(name)
    assert folder.isascii() and folder == folder.lower() and len(folder) <= 48
    assert not set(folder) & set('/\\:. *?"<>|') and home_of(name, tmp_path).parent == tmp_path / "users"


def test_folders_of_different_users_differ_also_without_case():
    names = ["ann", "Ann", "ANN", "änn", "a.nn", "a nn", "a_nn", "a-nn", *ODD, folder_name("Ann")]
    assert len({folder_name(name) for name in names}) == len(set(names))
    assert folder_name("ann-2_b") == "ann-2_b"


def test_two_spellings_of_one_name_are_one_user():
    composed, apart = (unicodedata.normalize(form, "Jürgen") for form in ("NFC", "NFD"))
    assert composed != apart and clean_name(composed) == clean_name(apart)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00", "a\u202eb", "a\u200bb", "a\ud800", "a" * 129])
def test_what_names_nobody(name):
    assert clean_name(name) is None


def user_paths(data, **flags):
    server = Flags(data_dir=str(data), **flags)
    return Paths.from_flags(UserFlags.of(server, home_of("ann", data)))


def test_a_user_reads_checkpoints_and_control_models_from_both_and_the_rest_from_the_own_folder(tmp_path):
    paths, own = user_paths(tmp_path), tmp_path / "users" / "ann" / "model_store"
    public = tmp_path / "model_store"
    assert paths.checkpoint_dirs == (own / "Stable-diffusion", public / "Stable-diffusion")
    assert paths.controlnet_dirs == (own / "ControlNet", public / "ControlNet")
    assert paths.lora_dirs == (own / "Lora", own / "LyCORIS")
    assert (paths.vae_dirs, paths.gfpgan_dirs) == ((own / "VAE",), (own / "GFPGAN",))
    assert (paths.embeddings_dir, paths.hypernetwork_dir) == (own / "embeddings", own / "hypernetworks")
    assert paths.outputs_dir == tmp_path / "users" / "ann" / "outputs"


def test_lora_dir_adds_and_the_other_four_replace(tmp_path):
    own = tmp_path / "users" / "ann" / "model_store"
    flags = {name: str(tmp_path / name) for name in
             ("lora_dir", "vae_dir", "gfpgan_dir", "embeddings_dir", "hypernetwork_dir")}  # fmt: skip
    paths = user_paths(tmp_path, **flags)
    assert paths.lora_dirs == (own / "Lora", own / "LyCORIS", tmp_path / "lora_dir")
    assert paths.vae_dirs == (tmp_path / "vae_dir",) and paths.gfpgan_dirs == (tmp_path / "gfpgan_dir",)
    assert paths.embeddings_dir == tmp_path / "embeddings_dir"
    assert paths.hypernetwork_dir == tmp_path / "hypernetwork_dir"


def test_a_users_settings_lie_above_the_servers(tmp_path):
    server = OptionStore(tmp_path / "config.json")
    ann = UserOptionStore(tmp_path / "ann.json", server)
    ann.update({"CLIP_stop_at_last_layers": 2})
    server.update({"CLIP_stop_at_last_layers": 3, "jpeg_quality": 50})
    assert (ann.snapshot().CLIP_stop_at_last_layers, ann.snapshot().jpeg_quality) == (2, 50)
    assert json.loads((tmp_path / "ann.json").read_text()) == {"CLIP_stop_at_last_layers": 2}
    server.update({"jpeg_quality": 60})
    ann.update({"samples_format": "webp"})
    assert UserOptionStore(tmp_path / "ann.json", server).snapshot() == ann.snapshot()
    assert ann.snapshot().jpeg_quality == 60 and server.snapshot().samples_format == "png"


def test_a_user_cannot_change_what_concerns_everybody(tmp_path):
    server = OptionStore(tmp_path / "config.json", frozen_names=["samples_format"])
    (tmp_path / "ann.json").write_text('{"disable_all_extensions": "all"}')
    ann = UserOptionStore(tmp_path / "ann.json", server)
    assert ann.snapshot().disable_all_extensions == "none"
    for change in (lambda: ann.keep({"disable_all_extensions": "all"}), lambda: ann.update({"samples_format": "webp"})):
        with pytest.raises(BadRequest, match="frozen"):
            change()
