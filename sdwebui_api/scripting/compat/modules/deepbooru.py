"""`modules.deepbooru`: tags of a picture, by whatever tagger this server has."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import job_view


class DeepDanbooru:
    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    def load(self) -> None:
        return

    def tag(self, pil_image: Any) -> str:
        """Comma-separated tags. Only within a job; raises NotFound naming the folder when there is no model."""
        found = job_view("deepbooru.model.tag")
        return found.context.interrogate(pil_image, "deepdanbooru", found.options)

    tag_multi = tag


model = DeepDanbooru()
