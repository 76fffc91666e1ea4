"""What the routes answer, for /openapi.json: A1111's schema names and fields, so that generated clients fit both.

These models describe; nothing is validated or copied when a route answers (`answers` switches that off), for
answers carry megabytes of pictures. Tests hold real answers against them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from sdwebui_api.config.flags import Flags as FlagsOfTheCommandLine
from sdwebui_api.config.option_table import OPTION_TABLE, OptionSpec


def answers(model: Any) -> dict[str, Any]:
    """Keyword arguments of a route that answers `model` (a model, or `list[model]`) as it documents."""
    return {"response_model": None, "responses": {200: {"model": model}}}


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class TextToImageResponse(_Answer):
    images: list[str] | None = Field(None, description="The pictures, in base64.")
    parameters: dict[str, Any] = Field(description="The request, with every field.")
    info: str = Field(description="A string that holds JSON: seeds, infotexts, `job_id`, `warnings` and more.")


class ImageToImageResponse(TextToImageResponse):
    pass


class ExtrasSingleImageResponse(_Answer):
    html_info: str
    image: str | None = Field(None, description="The picture, in base64.")


class ExtrasBatchImagesResponse(_Answer):
    html_info: str
    images: list[str] = Field(description="The pictures, in base64.")


class PNGInfoResponse(_Answer):
    info: str = Field(description="The infotext.")
    items: dict[str, Any] = Field(description="The other texts of the file.")
    parameters: dict[str, Any] = Field(description="The infotext, read.")


class InterrogateResponse(_Answer):
    caption: str


class ProgressResponse(_Answer):
    progress: float = Field(description="From 0 to 1.")
    eta_relative: float = Field(description="Seconds left.")
    state: dict[str, Any]
    current_image: str | None = Field(None, description="A live preview, in base64.")
    textinfo: str | None = None


class SamplerItem(_Answer):
    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(_Answer):
    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float | None = None
    need_inner_model: bool | None = None


class UpscalerItem(_Answer):
    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float | None = None


class LatentUpscalerModeItem(_Answer):
    name: str


class SDModelItem(_Answer):
    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None


class SDVaeItem(_Answer):
    model_name: str
    filename: str


class HypernetworkItem(_Answer):
    name: str
    path: str | None = None


class FaceRestorerItem(_Answer):
    name: str
    cmd_dir: str | None = None


class RealesrganItem(_Answer):
    name: str
    path: str | None = None
    scale: int | None = None


class PromptStyleItem(_Answer):
    name: str
    prompt: str | None = None
    negative_prompt: str | None = None


class EmbeddingItem(_Answer):
    step: int | None = Field(None, description="How many steps it was trained for.")
    sd_checkpoint: str | None = Field(None, description="Short hash of the checkpoint it was trained on.")
    sd_checkpoint_name: str | None = None
    shape: int = Field(description="Length of a vector.")
    vectors: int = Field(description="How many vectors it has.")


class EmbeddingsResponse(_Answer):
    loaded: dict[str, EmbeddingItem] = Field(description="Those that fit the current checkpoint.")
    skipped: dict[str, EmbeddingItem] = Field(description="Those that do not.")


class MemoryResponse(_Answer):
    ram: dict[str, Any]
    cuda: dict[str, Any]


class ControlNetVersion(_Answer):
    version: int


class ControlNetModelList(_Answer):
    model_list: list[str] = Field(description='As units name them: "name [hash]".')


class ControlNetModuleList(_Answer):
    module_list: list[str]
    module_detail: dict[str, Any] = Field(description="By name: `model_free` and `sliders`.")


class ControlNetTypes(_Answer):
    control_types: dict[str, Any] = Field(
        description="By type: `module_list`, `model_list`, `default_option`, `default_model`."
    )


class ControlNetSettings(_Answer):
    control_net_unit_count: int
    control_net_max_models_num: int


class ControlNetPictures(_Answer):
    info: str
    images: list[str] = Field(description="The pictures, in base64.")


class ControlNetDetection(ControlNetPictures):
    poses: list[dict[str, Any]] | None = Field(None, description="OpenPose JSON of each picture, for poses only.")


class ScriptsList(_Answer):
    txt2img: list[Any] | None = Field(None, description="Titles in lower case.")
    img2img: list[Any] | None = None


class ScriptArg(_Answer):
    label: str | None = None
    value: Any | None = None
    minimum: Any | None = None
    maximum: Any | None = None
    step: Any | None = None
    choices: list[str] | None = None


class ScriptInfo(_Answer):
    name: str | None = None
    is_alwayson: bool | None = None
    is_img2img: bool | None = None
    args: list[ScriptArg]


class ExtensionItem(_Answer):
    name: str
    remote: str | None
    branch: str | None
    commit_hash: str | None
    version: str | None
    commit_date: Any
    enabled: bool


class CreateResponse(_Answer):
    info: str


class TrainResponse(_Answer):
    info: str


_KINDS: dict[str, Any] = {
    "switch": bool, "whole": int, "real": float, "text": str, "names": list[str], "color": str, "one_of": str
}  # fmt: skip


def _option(spec: OptionSpec) -> Any:
    kind = float if spec.answered_as_float else _KINDS[spec.kind]
    return kind | None, spec.wire(spec.default)


def _flag(flag: Any) -> Any:
    if flag.default is dataclasses.MISSING:
        return Any, None
    default = flag.default
    kind: Any = bool if isinstance(default, bool) else int | float | str | list[str] | None
    return kind, list(default) if isinstance(default, tuple) else default


Options = create_model("Options", __base__=_Answer, **{name: _option(spec) for name, spec in OPTION_TABLE.items()})
"""Every setting with its default."""

Flags = create_model(
    "Flags", __base__=_Answer, **{flag.name: _flag(flag) for flag in dataclasses.fields(FlagsOfTheCommandLine)}
)
"""The command line; secrets are answered as `***`."""
