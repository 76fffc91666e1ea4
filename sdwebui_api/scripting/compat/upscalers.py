"""What scripts see of the upscalers: `shared.sd_upscalers` and the scaler of each."""

from __future__ import annotations

from typing import Any

from sdwebui_api.imaging.upscale import find_upscaler
from sdwebui_api.scripting.compat.world import job_view


class UpscalerData:
    """One row of `shared.sd_upscalers`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.scale = 4
        self.data_path = self.local_data_path = None
        """A1111's path of the network; the scaler knows it by its name here."""
        self.scaler = _Scaler(name)


class _Scaler:
    def __init__(self, name: str) -> None:
        self.name = name
        self.scalers: list[Any] = []

    def upscale(self, img: Any, scale: float, selected_model: Any = None) -> Any:
        """`img` enlarged `scale` times; "None" leaves it as it is. Only within a job."""
        if self.name == "None":
            return img
        context = job_view("an upscaler").context
        return find_upscaler(self.name, "upscaler", context.upscalers).upscale(img, scale)
