"""The scalar keys that EAS clients put into `alwayson_scripts`, beside the entries of scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sdwebui_api.errors import BadRequest

if TYPE_CHECKING:
    from sdwebui_api.api.services import Catalog

_LONGEST = 4000
_BUILT_IN_VAES = frozenset({"automatic", "auto", "none"})


@dataclass(frozen=True)
class Extras:
    """As the client wrote them; empty: not given."""

    sd_model_checkpoint: str = ""
    """The checkpoint of this request: file name with or without extension, title or hash."""
    sd_vae: str = ""
    """Its VAE: file name, `Automatic` or `None`."""
    save_dir: str = ""
    """Where results are written."""
    image_link: str = ""
    """img2img: the start image's address. `api.linked` fetches it."""
    id_task: str = ""
    """The caller's name for the request, repeated in the answer."""
    uid: str = ""
    """The caller's name for its user."""

    def overrides(self, catalog: Catalog) -> dict[str, str]:
        """The settings among them, which hold before `override_settings`. Raises NotFound with the nearest names."""
        found = {}
        if self.sd_model_checkpoint:
            field = "alwayson_scripts.sd_model_checkpoint"
            found["sd_model_checkpoint"] = catalog.checkpoints.find(self.sd_model_checkpoint, field).name
        if self.sd_vae:
            if self.sd_vae.lower() not in _BUILT_IN_VAES:
                catalog.vaes.find(self.sd_vae, "alwayson_scripts.sd_vae")
            found["sd_vae"] = self.sd_vae
        return found


EXTRA_KEYS = tuple(field.name for field in fields(Extras))


def read_extras(alwayson: Mapping[str, Any]) -> Extras:
    """Raises BadRequest (422) for a key whose value is no text; numbers are accepted, null is as good as absent."""
    return Extras(**{key: _text(key, alwayson[key]) for key in EXTRA_KEYS if key in alwayson})


def without_extras(alwayson: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of scripts and sections."""
    return {name: entry for name, entry in alwayson.items() if name not in EXTRA_KEYS}


def has_extras(alwayson: Any) -> bool:
    """Whether an EAS client speaks."""
    return isinstance(alwayson, Mapping) and any(key in alwayson for key in EXTRA_KEYS)


def spelled(alwayson: Any, key: str) -> str:
    """A key of a body that may be anything: for answers to requests that are refused. Empty: it is no text."""
    value = alwayson.get(key) if isinstance(alwayson, Mapping) else None
    return str(value).strip()[:_LONGEST] if _is_scalar(value) else ""


def _text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if not _is_scalar(value):
        raise BadRequest('a text is expected, not an object such as {"args": […]}', field=f"alwayson_scripts.{key}")
    text = str(value).strip()
    if len(text) > _LONGEST:
        raise BadRequest(f"at most {_LONGEST} characters", field=f"alwayson_scripts.{key}")
    return text


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
