"""Which pictures of a run are kept on disk, besides being returned."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from PIL import Image

from sdwebui_api.generation import describe
from sdwebui_api.generation.plan import Batch
from sdwebui_api.generation.run import Run
from sdwebui_api.generation.saving import save_image
from sdwebui_api.imaging.metadata import text_items
from sdwebui_api.scripting.hooks import PictureFile
from sdwebui_api.storage.local import LocalStorage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureKeeper:
    """Saves what the options of one request want saved."""

    run: Run
    storage: LocalStorage

    @property
    def keeps_samples(self) -> bool:
        """Whether samples are saved now: unfinished ones only with `save_incomplete_images`."""
        request = self.run.request
        wanted = request.options.samples_save and not request.do_not_save_samples
        return wanted and (request.options.save_incomplete_images or not self.run.job.should_stop)

    @property
    def keeps_first_pass(self) -> bool:
        """Option `save_images_before_highres_fix`."""
        return self.keeps_samples and self.run.request.options.save_images_before_highres_fix

    def keep_first_pass(self, batch: Batch, images: Sequence[Image.Image]) -> None:
        """The pictures of a batch before the hires pass."""
        if not self.keeps_first_pass:
            return
        for position, image in enumerate(images):
            index = batch.index * self.run.plan.batch_size + position
            self.save(self.run.censor(image), index, describe.infotext(self.run, index), suffix="-before-highres-fix")

    def keep_init_images(self) -> None:
        """img2img's start images, named by their hash (option `save_init_img`); infotexts mention the last one's."""
        request = self.run.request
        if request.init is None or not request.options.save_init_img:
            return
        lossless = request.options.with_values({"samples_format": "png", "save_to_dirs": False})
        for image in request.init.images:
            name = self.run.init_image_hash = hashlib.md5(image.tobytes(), usedforsecurity=False).hexdigest()
            with self._whatever_the_disk_does():
                save_image(
                    self.storage,
                    image,
                    describe.naming_facts(self.run, 0),
                    lossless,
                    purpose="init",
                    forced_name=name,
                    items=text_items(image),
                )

    def save(
        self, image: Image.Image, index: int, infotext: str, *, grid: bool = False, suffix: str = ""
    ) -> str | None:
        """Save `image`, which shows picture `index` of the request; returns the path, None when it was not possible."""
        request, hooks = self.run.request, self.run.hooks
        picture = hooks.before_save(PictureFile(image, infotext))
        path = None
        with self._whatever_the_disk_does():
            saved = save_image(
                self.storage,
                picture.image,
                describe.naming_facts(self.run, index),
                request.options,
                purpose=request.kind,
                infotext=picture.infotext,
                grid=grid,
                suffix=suffix,
            )
            path = str(saved.path)
        if path is not None:
            hooks.saved(replace(picture, path=path))
        return path

    @contextmanager
    def _whatever_the_disk_does(self) -> Iterator[None]:
        """A full or read-only disk must not cost the client its picture: it comes with a warning instead."""
        try:
            yield
        except OSError as error:
            text = f"a picture could not be saved: {error.strerror or error}"
            log.error("job %s: %s", self.run.job.id, text)
            if text not in self.run.warnings:
                self.run.warnings.append(text)
