"""`shared.sd_model` and the checkpoints as scripts see them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.scripting.compat.world import NotOffered, current_device, current_options, view, world

if TYPE_CHECKING:
    from sdwebui_api.engine.model import DiffusionModel

HIDDEN = "it is shared by all jobs and not laid out as A1111's; use the cfg callbacks instead"


class CheckpointInfo:
    """A1111's row of `checkpoints_list`."""

    def __init__(self, file: CheckpointFile | str) -> None:
        self.file = world().files.checkpoints.find(Path(file).stem) if isinstance(file, str) else file
        self.filename = str(self.file.path)
        self.name = self.file.name
        self.name_for_extra = self.file.stem
        self.model_name = self.file.model_name
        self.is_safetensors = self.file.path.suffix == ".safetensors"
        self.metadata = self.file.metadata if self.is_safetensors else {}

    @property
    def sha256(self) -> str | None:
        return self.file.sha256

    @property
    def shorthash(self) -> str | None:
        return self.file.shorthash

    hash = shorthash

    @property
    def title(self) -> str:
        return self.file.title

    @property
    def short_title(self) -> str:
        return f"{self.name_for_extra} [{self.shorthash}]" if self.shorthash else self.name_for_extra

    @property
    def ids(self) -> list[str]:
        return [text for text in (self.name, self.model_name, self.title, self.shorthash, self.sha256) if text]

    def calculate_shorthash(self) -> str | None:
        return self.shorthash

    def register(self) -> None:
        return


def checkpoint_file() -> CheckpointFile | None:
    """The running job's checkpoint; outside of jobs the one of the settings."""
    found = view()
    if found is not None:
        return found.request.checkpoint
    checkpoints = world().files.checkpoints
    name = world().store.snapshot().sd_model_checkpoint
    try:
        return checkpoints.find(name) if name else checkpoints.default()
    except LookupError:
        return checkpoints.default()


class SdModelFacade:
    """`shared.sd_model`: facts and the VAE of the job's model. Tensors and texts only while a job runs."""

    cond_stage_key = "txt"
    is_sd3 = is_ssd = lowvram = False
    cond_stage_model_empty_prompt = None

    @property
    def sd_checkpoint_info(self) -> CheckpointInfo | None:
        file = checkpoint_file()
        return CheckpointInfo(file) if file else None

    @property
    def sd_model_hash(self) -> str | None:
        file = checkpoint_file()
        return file.shorthash if file else None

    @property
    def sd_model_checkpoint(self) -> str | None:
        file = checkpoint_file()
        return str(file.path) if file else None

    filename = sd_model_checkpoint

    @property
    def used_config(self) -> str | None:
        file = checkpoint_file()
        return str(file.config_path) if file and file.config_path else None

    @property
    def is_sd1(self) -> bool:
        """As long as no job runs, nobody knows better."""
        return self._family() == "sd1"

    @property
    def is_sd2(self) -> bool:
        return self._family() == "sd2"

    @property
    def is_sdxl(self) -> bool:
        return self._family() in ("sdxl", "sdxl_refiner")

    @property
    def is_sdxl_inpaint(self) -> bool:
        return self.is_sdxl and self._model.in_channels == 9

    @staticmethod
    def _family() -> str:
        found = view()
        return "sd1" if found is None or found.model is None else str(found.model.family.name)

    @property
    def device(self) -> Any:
        return current_device()

    @property
    def dtype(self) -> Any:
        return self._model.dtype

    @property
    def alphas_cumprod(self) -> Any:
        return self._model.alphas_cumprod.clone()

    @property
    def parameterization(self) -> str:
        return "v" if self._model.prediction_type == "v_prediction" else "eps"

    @property
    def latent_channels(self) -> int:
        return self._model.latent_channels

    @property
    def model(self) -> Any:
        """Only what kind of conditioning it has."""
        channels = self._model.in_channels
        key = {9: "hybrid", 8: "edit"}.get(channels, "crossattn")
        return _Part("shared.sd_model.model", conditioning_key=key)

    @property
    def cond_stage_model(self) -> Any:
        return _Part(
            "shared.sd_model.cond_stage_model",
            tokenize=lambda texts: [self._model.text_encoder.tokenizer.tokenize(text) for text in texts],
            tokenize_line=self._tokenize_line,
            get_prompt_lengths=self._prompt_lengths,
        )

    def get_learned_conditioning(self, texts: Any) -> Any:
        """[B, 77n, D] of plain texts under the job's settings."""
        from sdwebui_api.prompting.conditioning import stack_padded
        from sdwebui_api.prompting.encoding import EncodingCache, TextConditioner, TextSettings

        model, options = self._model, current_options()
        settings = TextSettings.of(options, model.family.own_clip_skip)
        conditioner = TextConditioner(model.text_encoder, model.embeddings, EncodingCache())
        return stack_padded(conditioner.encode(list(texts), settings).tensors)

    def encode_first_stage(self, images: Any) -> Any:
        """Pictures [B, 3, H, W] in [-1, 1] to latents; scaled already, see `get_first_stage_encoding`."""
        return self._model.encode(images, None)

    def get_first_stage_encoding(self, encoded: Any) -> Any:
        return encoded

    def decode_first_stage(self, latent: Any) -> Any:
        return self._model.decode(latent)

    def _tokenize_line(self, line: str) -> tuple[Any, int]:
        from sdwebui_api.prompting.chunks import tokenize_to_chunks

        encoder, options = self._model.text_encoder, current_options()
        return tokenize_to_chunks(
            line, encoder.tokenizer, self._model.embeddings, options.emphasis, int(options.comma_padding_backtrack)
        )

    def _prompt_lengths(self, text: str) -> tuple[int, int]:
        count = self._tokenize_line(text)[1]
        return count, max(1, -(-count // 75)) * 75

    @property
    def _model(self) -> DiffusionModel:
        found = view()
        if found is None or found.model is None:
            raise RuntimeError("the model can be used only while a job generates, in the job's own thread")
        return found.model

    def __getattr__(self, name: str) -> Any:
        raise NotOffered(f"shared.sd_model.{name} is not offered: {HIDDEN}")

    def __bool__(self) -> bool:
        return True


class _Part(SimpleNamespace):
    """A named part of the model, of which only some attributes are there."""

    def __init__(self, sdwebui_path: str, **values: Any) -> None:
        super().__init__(**values)
        self.__dict__["sdwebui_path"] = sdwebui_path

    def __getattr__(self, name: str) -> Any:
        path = self.__dict__.get("sdwebui_path", "this part")
        raise NotOffered(f"{path}.{name} is not offered: {HIDDEN}")


SD_MODEL = SdModelFacade()
