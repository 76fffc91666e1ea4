"""The generator in this process, without HTTP: what the server's overhead is measured against."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.folders import passing_folder
from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.app import build
from sdwebui_api.config.flags import parse_flags
from sdwebui_api.imaging.codec import encode_image, to_base64
from sdwebui_api.jobs.job import Job


class BareEngine:
    def __init__(self, models_dir: Path, *more_flags: str) -> None:
        words = [
            "--nowebui",
            "--data-dir",
            str(passing_folder("bare-engine")),
            "--models-dir",
            str(models_dir),
            *more_flags,
        ]
        flags = parse_flags(words, environ={})
        self._services = build(flags)

    def generate(self, body: dict[str, Any]) -> tuple[float, Image.Image]:
        """Seconds that the generator took for a resolved request, and the picture."""
        fields = Txt2ImgBody(**body)
        services = self._services
        options = services.options.snapshot()
        request = services.resolver("txt2img", fields.model_dump(), set(fields.model_fields_set), options)
        named = services.scripts.read("txt2img", services.catalog, "", [], fields.alwayson_scripts)
        request = replace(request, script=named.script, always_on=named.always_on)
        begin = time.perf_counter()
        result = self._services.generator.run(request, Job("benchmark", "txt2img"))
        return time.perf_counter() - begin, result.images[0].image

    @staticmethod
    def encode(image: Image.Image) -> float:
        """Seconds for PNG and base64, which every server has to spend."""
        begin = time.perf_counter()
        to_base64(encode_image(image, "png", infotext="Steps: 20"))
        return time.perf_counter() - begin
