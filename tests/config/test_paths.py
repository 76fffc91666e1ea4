from __future__ import annotations

from pathlib import Path

from sdwebui_api.config.flags import default_data_dir, parse_flags
from sdwebui_api.config.paths import Paths


def paths(*argv: object) -> Paths:
    return Paths.from_flags(parse_flags([str(word) for word in argv], {}))


def test_the_shipped_model_is_found_by_default():
    checkout = Path(default_data_dir())
    assert paths().checkpoint_dirs == (checkout / "model_store" / "Stable-diffusion",)
    assert list(paths().checkpoint_dirs[0].glob("*.safetensors"))


def test_another_data_dir_still_knows_the_shipped_model(tmp_path):
    found = paths("--data-dir", tmp_path)
    assert found.checkpoint_dirs == (tmp_path / "model_store" / "Stable-diffusion",)
    assert found.shipped_checkpoint_dir == Path(default_data_dir()) / "model_store" / "Stable-diffusion"
    assert found.options_file == tmp_path / "config.json"
    assert found.styles_files == (tmp_path / "styles.csv",)


def test_a_data_folder_of_a1111_is_understood(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "embeddings").mkdir()
    found = paths("--data-dir", tmp_path)
    assert found.models_dir == tmp_path / "models"
    assert found.embeddings_dir == tmp_path / "embeddings"


def test_an_explicit_models_dir_stands_alone(tmp_path):
    found = paths("--models-dir", tmp_path)
    assert found.shipped_checkpoint_dir is None
    assert found.vae_dirs == (tmp_path / "VAE",)
    assert found.upscaler_dirs["ESRGAN"] == tmp_path / "ESRGAN"


def test_additional_folders_follow_the_own_ones(tmp_path):
    found = paths("--models-dir", tmp_path, "--ckpt-dir", "/c", "--vae-dir", "/v", "--lora-dir", "/l")
    assert found.checkpoint_dirs == (tmp_path / "Stable-diffusion", Path("/c"))
    assert found.vae_dirs == (tmp_path / "VAE", Path("/v"))
    assert found.lora_dirs == (tmp_path / "Lora", Path("/l"), tmp_path / "LyCORIS")


def test_interrogation_models_lie_where_their_flag_says(tmp_path):
    assert paths("--models-dir", tmp_path).interrogate_dir == tmp_path / "interrogate"
    assert paths("--models-dir", tmp_path, "--clip-models-path", tmp_path / "clip").interrogate_dir == tmp_path / "clip"


def test_styles_files_may_be_patterns_below_the_current_folder_or_the_data(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    for name in ("here/b.csv", "here/a.csv", "data.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    found = paths("--data-dir", tmp_path, "--styles-file", "*.csv", "--styles-file", "data.csv")
    assert found.styles_files == (tmp_path / "here/a.csv", tmp_path / "here/b.csv", tmp_path / "data.csv")


def test_output_folders_of_options_lie_below_the_data(tmp_path):
    assert paths("--data-dir", tmp_path).resolve("outputs/x") == tmp_path / "outputs/x"
    assert paths("--data-dir", tmp_path).resolve("/abs") == Path("/abs")
