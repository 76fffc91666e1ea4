"""The upscalers that one job may use: those without weights, and every network in the catalog, loaded when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from sdwebui_api.catalog.upscalers import UpscalerCatalog, UpscalerFile
from sdwebui_api.errors import PayloadTooLarge
from sdwebui_api.imaging.upscale import WEIGHT_FREE_UPSCALERS, Upscaler

if TYPE_CHECKING:
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.jobs.job import Job

MAX_NETWORK_PIXELS = 16384 * 16384
"""What one pass of a network may make: a network enlarges by its own factor, also when 1 was asked for."""

OnTile = Callable[[int, int], None]


class UpscalerLibrary:
    """Makes the set of a job. Without an engine (tests of the doors) only those without weights can run."""

    def __init__(self, engine: Engine | None, catalog: UpscalerCatalog) -> None:
        self._engine = engine
        self.catalog = catalog

    def for_job(self, job: Job, options: Mapping[str, Any], *, as_steps: bool = False) -> Mapping[str, Upscaler]:
        """Name to upscaler. Cancelling `job` ends a network between two tiles.

        `options`: `ESRGAN_tile` and `ESRGAN_tile_overlap`, for the files in the folder DAT `DAT_tile` and
        `DAT_tile_overlap`. `as_steps`: tiles count as the job's steps (a job that only enlarges); else they are
        told as text, for the steps are the sampler's.
        """
        found = dict(WEIGHT_FREE_UPSCALERS)
        if self._engine is not None:
            report = _steps(job) if as_steps else _text(job)
            for file in self.catalog.all():
                found[file.name] = self._network(self._engine, file, job, options, report)
        return found

    def _network(
        self, engine: Engine, file: UpscalerFile, job: Job, options: Mapping[str, Any], report: OnTile
    ) -> Upscaler:
        prefix = "DAT" if file.kind == "DAT" else "ESRGAN"
        side, overlap = int(options[f"{prefix}_tile"]), int(options[f"{prefix}_tile_overlap"])

        def enlarge(image: Image.Image, scale: float) -> Image.Image:
            from sdwebui_api.engine.upscaler import Tiling, UpscalerNetwork, load_upscaler

            job.check()
            with engine.auxiliary(file.path, load_upscaler, UpscalerNetwork, job.set_text) as network:
                if image.width * image.height * network.scale**2 > MAX_NETWORK_PIXELS:
                    raise PayloadTooLarge(f"{file.name} would make more than {MAX_NETWORK_PIXELS} pixels")
                result = network.enlarge(image, Tiling(side, overlap), report)
            job.set_text(None)
            return result

        return Upscaler(file.name, enlarge)


def _steps(job: Job) -> OnTile:
    def report(done: int, total: int) -> None:
        if done == 1:
            job.start_batch(None, total)
        job.step(done)

    return report


def _text(job: Job) -> OnTile:
    def report(done: int, total: int) -> None:
        job.check()
        job.set_text(f"upscaling, tile {done} of {total}")

    return report
