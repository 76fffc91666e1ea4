"""`--enable-nsfw-censor`: pictures that a classifier finds unsafe for work come out black.

Any picture classifier in transformers' format will do whose labels tell the unsafe (`Falconsai/nsfw_image_detection`:
`normal`, `nsfw`). Without it the server does not start, for a censor that silently does nothing is worse than none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from sdwebui_api.errors import NotFound, UnusableModel

if TYPE_CHECKING:
    from sdwebui_api.engine.engine import Engine

MODEL = "Falconsai/nsfw_image_detection"
THRESHOLD = 0.5
_UNSAFE = re.compile(r"(?<!not[ _-])(?<!non[ _-])\b(nsfw|porn\w*|hentai|sexy|explicit|unsafe|nud\w+)\b")


class Censor:
    """Blackens pictures. An error of the classifier fails the request: nothing leaves unchecked."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        """Loads the classifier once, so that a wrong file is found at the start.

        Raises NotFound naming the folder when nothing is there, UnusableModel when it is no such classifier.
        """
        self._engine = engine
        self._folder = folder
        if not (folder / "config.json").is_file():
            raise NotFound(
                f"--enable-nsfw-censor needs a classifier in {folder}: the files of {MODEL} "
                "(config.json, model.safetensors, preprocessor_config.json)"
            )
        if not self._unsafe_labels():
            raise UnusableModel(f"none of the labels of the classifier in {folder} tells what is unsafe")

    def __call__(self, image: Image.Image) -> Image.Image:
        """`image`, or a black one of its size and mode."""
        return Image.new(image.mode, image.size) if self.is_unsafe(image) else image

    def is_unsafe(self, image: Image.Image) -> bool:
        from sdwebui_api.engine.classifier import PictureClassifier, load_classifier

        with self._engine.auxiliary(self._folder, load_classifier, PictureClassifier) as classifier:
            found = classifier.probabilities(image)
        return sum(share for label, share in found.items() if tells_unsafe(label)) >= THRESHOLD

    def _unsafe_labels(self) -> list[str]:
        from sdwebui_api.engine.classifier import PictureClassifier, load_classifier

        with self._engine.auxiliary(self._folder, load_classifier, PictureClassifier) as classifier:
            return [label for label in classifier.labels if tells_unsafe(label)]


def tells_unsafe(label: str) -> bool:
    """ "nsfw", "porn", "hentai", "sexy" … but not "not nsfw"."""
    return _UNSAFE.search(label.lower()) is not None
