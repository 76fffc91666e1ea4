"""One answer out of the several generations that a script makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import GeneratedImage, GenerationRequest, GenerationResult, InitImage
from sdwebui_api.imaging.grid import image_grid


@dataclass
class Collected:
    """The results of a script's runs, in order."""

    results: list[GenerationResult] = field(default_factory=list)

    def add(self, result: GenerationResult) -> GenerationResult:
        self.results.append(result)
        return result

    @property
    def warnings(self) -> list[str]:
        """Of all runs, each once."""
        return list(dict.fromkeys(text for result in self.results for text in result.info.get("warnings", ())))

    @property
    def seed(self) -> int:
        return int(self.results[0].info["seed"])

    @property
    def infotext(self) -> str:
        """That of the first picture."""
        texts: list[str] = self.results[0].info["infotexts"]
        return texts[0]

    @property
    def last_seed(self) -> int | None:
        """Of the last picture so far: what `InitImage.posterior_seed` of the next run is in A1111."""
        return int(self.results[-1].info["all_seeds"][-1]) if self.results else None

    def answer(self, images: Sequence[GeneratedImage], **changes: Any) -> GenerationResult:
        """`images` with the facts of the last run, and seed and infotext of the first.

        That is what A1111's scripts answer (`Processed(p, images, seed, info)`). `changes` are keys of `info`.
        """
        info = {
            **self.results[-1].info,
            "seed": self.seed,
            "subseed": -1,
            "index_of_first_image": 0,
            "infotexts": [self.infotext] * len(images),
            "warnings": self.warnings,
        }
        return GenerationResult(list(images), info | changes)


def start_of(request: GenerationRequest) -> InitImage:
    """What img2img starts from. Raises BadRequest where a script has nothing to work on."""
    if request.init is None:
        raise BadRequest("this script works on a picture", field="init_images")
    return request.init


def pictures(result: GenerationResult) -> list[Image.Image]:
    """The samples of a run: no grid, no masks."""
    return [image.image for image in result.images if image.role == "sample"]


def row_of(images: Sequence[Image.Image], infotext: str) -> GeneratedImage:
    """A grid of one row."""
    return GeneratedImage(image_grid(images, rows=1), infotext, "grid", described=False)
