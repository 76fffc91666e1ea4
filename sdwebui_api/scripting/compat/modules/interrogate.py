"""`modules.interrogate`: a picture in words, by whatever captioner this server has."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import job_view


class InterrogateModels:
    def load(self) -> None:
        return

    def unload(self) -> None:
        return

    send_blip_to_ram = send_clip_to_ram = unload

    def interrogate(self, pil_image: Any) -> str:
        """Only within a job; raises NotFound naming the folder when there is no model."""
        found = job_view("interrogate")
        return found.context.interrogate(pil_image, "clip", found.options)

    generate_caption = interrogate
