"""What to merge into a new checkpoint: the recipe, the new file's name, and the metadata that tells how it was made.

Follows A1111 `modules/extras.py` (`run_modelmerger`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sdwebui_api.catalog.checkpoints import CheckpointFile
from sdwebui_api.catalog.vaes import VaeFile
from sdwebui_api.errors import BadRequest

InterpMethod = Literal["Weighted sum", "Add difference", "No interpolation"]

LONGEST_NAME = 200
CONFIG_OF_ANY, CONFIG_OF_B, CONFIG_OF_C, NO_CONFIG = range(4)
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')


@dataclass(frozen=True)
class MergeRecipe:
    """`primary` (A) with what `method` takes from `secondary` (B) and `tertiary` (C).

    Weighted sum: A * (1 - multiplier) + B * multiplier. Add difference: A + (B - C) * multiplier.
    No interpolation: A alone, to convert it, bake in a VAE or drop tensors.
    """

    primary: CheckpointFile
    secondary: CheckpointFile | None = None
    tertiary: CheckpointFile | None = None
    method: InterpMethod = "Weighted sum"
    multiplier: float = 0.3
    save_as_half: bool = False
    """float32 tensors become float16; others stay."""
    custom_name: str = ""
    config_source: int = CONFIG_OF_ANY
    """Whose `.yaml` goes beside the new file: the first of A, B, C that has one; B's; C's; none."""
    vae: VaeFile | None = None
    """Takes the place of A's VAE."""
    discard_weights: str = ""
    """Regular expression; tensors in whose names it is found are left out."""
    save_metadata: bool = True
    add_merge_recipe: bool = True
    copy_metadata_fields: bool = True
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def sources(self) -> tuple[CheckpointFile, ...]:
        """The checkpoints that are read."""
        return tuple(source for source in (self.primary, self.secondary, self.tertiary) if source is not None)

    def config_path(self) -> Path | None:
        candidates = {
            CONFIG_OF_ANY: self.sources,
            CONFIG_OF_B: (self.secondary,),
            CONFIG_OF_C: (self.tertiary,),
        }.get(self.config_source, ())
        return next((source.config_path for source in candidates if source and source.config_path), None)

    def file_name(self, kind: str = "") -> str:
        """`custom_name`, or a name after the formula. `kind`: "inpainting" or "instruct-pix2pix" for such a result.

        Raises BadRequest(custom_name) for a name that is no plain file name.
        """
        if self.custom_name:
            name = self.custom_name.strip().removesuffix(".safetensors")
            if not name or _FORBIDDEN.search(name) or name.startswith(".") or len(name) > LONGEST_NAME:
                raise BadRequest("must be a plain file name, without folders", field="custom_name")
        else:
            name = _FORBIDDEN.sub("_", self._formula())[:LONGEST_NAME].lstrip(".")
        return f"{name}.{kind}.safetensors" if kind else f"{name}.safetensors"

    def _formula(self) -> str:
        a, *others = (source.model_name for source in self.sources)
        if self.method == "Weighted sum":
            return f"{round(1 - self.multiplier, 2)}({a}) + {round(self.multiplier, 2)}({others[0]})"
        if self.method == "Add difference":
            return f"{a} + {round(self.multiplier, 2)}({others[0]} - {others[1]})"
        return a

    def file_metadata(self, kind: str = "") -> dict[str, str]:
        """`__metadata__` of the new file. Reads the sources' hashes, which takes time."""
        found: dict[str, str] = {}
        if self.save_metadata:
            if self.copy_metadata_fields:
                for source in reversed(self.sources):  # A's word counts
                    found.update(source.metadata)
            found.update(self.metadata)
            if self.add_merge_recipe:
                found["sd_merge_recipe"] = json.dumps(self._recipe(kind))
                found["sd_merge_models"] = json.dumps(self._ancestors())
        return {**found, "format": "pt"}

    def _recipe(self, kind: str) -> dict[str, Any]:
        a, b, c = (source.sha256 if source else None for source in (self.primary, self.secondary, self.tertiary))
        return {
            "type": "webui",
            "primary_model_hash": a,
            "secondary_model_hash": b,
            "tertiary_model_hash": c,
            "interp_method": self.method,
            "multiplier": self.multiplier,
            "save_as_half": self.save_as_half,
            "custom_name": self.custom_name,
            "config_source": self.config_source,
            "bake_in_vae": self.vae.name if self.vae else "None",
            "discard_weights": self.discard_weights,
            "is_inpainting": kind == "inpainting",
            "is_instruct_pix2pix": kind == "instruct-pix2pix",
        }

    def _ancestors(self) -> dict[str, Any]:
        """Hash to name and recipe, of the sources and of what these were merged from."""
        models: dict[str, Any] = {}
        for source in self.sources:
            models |= _json_object(source.metadata.get("sd_merge_models"))
        for source in self.sources:
            models[source.sha256 or source.name] = {
                "name": source.name,
                "legacy_hash": None,
                "sd_merge_recipe": _json_object(source.metadata.get("sd_merge_recipe")) or None,
            }
        return models


def _json_object(text: str | None) -> dict[str, Any]:
    """Metadata is anybody's: what is no JSON object counts as none."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
