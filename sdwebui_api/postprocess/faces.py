"""Face restoration for one job: faces found, cut out, drawn anew and laid back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from sdwebui_api.catalog.face_restorers import FaceRestorerCatalog
from sdwebui_api.errors import BadRequest

if TYPE_CHECKING:
    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.jobs.job import Job

RestoreFaces = Callable[[Image.Image, float], Image.Image]
"""(picture, CodeFormer's weight) -> the picture in RGB, unchanged where it shows no face."""


class FaceLibrary:
    """Makes the restorers of a job. Without an engine (tests of the doors) none can run."""

    def __init__(self, engine: Engine | None, catalog: FaceRestorerCatalog) -> None:
        self._engine = engine
        self.catalog = catalog

    def with_files(self, catalog: FaceRestorerCatalog) -> FaceLibrary:
        return FaceLibrary(self._engine, catalog)

    def for_job(self, job: Job) -> FacesOfJob:
        return FacesOfJob(self._engine, self.catalog, job)


class FacesOfJob:
    """Cancelling the job ends the work between two faces."""

    def __init__(self, engine: Engine | None, catalog: FaceRestorerCatalog, job: Job) -> None:
        self._engine = engine
        self._catalog = catalog
        self._job = job

    def restorer(self, name: str, field: str | None = None) -> RestoreFaces:
        """The one called `name`. Raises BadRequest naming `field` when it is unknown or files of it are missing.

        Running it raises UnusableModel, OutOfMemory and Cancelled.
        """
        files = self._catalog.find(name, field)
        engine, job = self._engine, self._job
        if engine is None:
            raise BadRequest(f"{files.name} cannot run here", field=field)

        def restore(image: Image.Image, weight: float) -> Image.Image:
            from sdwebui_api.engine.face_detection import FaceDetector, load_face_detector
            from sdwebui_api.engine.face_restorer import FaceRestorerNetwork, load_face_restorer
            from sdwebui_api.imaging.faces import cut_out, lay_back

            job.check()
            with engine.auxiliary(files.detector, load_face_detector, FaceDetector, job.set_text) as detector:
                crops = cut_out(image, detector.landmarks(image))
            restored = []
            if crops:
                with engine.auxiliary(files.weights, load_face_restorer, FaceRestorerNetwork, job.set_text) as network:
                    for number, crop in enumerate(crops, start=1):
                        job.check()
                        job.set_text(f"restoring faces, {number} of {len(crops)}")
                        restored.append((crop, network.restore(crop.pixels, weight)))
            job.set_text(None)
            return lay_back(image, restored)

        return restore
