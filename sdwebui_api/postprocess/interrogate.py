"""POST interrogate: what a picture shows, as a caption with fitting words, or as booru tags.

Follows A1111 `modules/interrogate.py` and `modules/deepbooru.py`. Everything is read from `model_store/interrogate`:

    BLIP/           caption: a folder in transformers' format (Salesforce/blip-image-captioning-base or -large)
    CLIP/           optional, likewise (openai/clip-vit-large-patch14): picks words from the lists
    *.txt           optional lists, a word per line; `flavors.top3.txt`: the best three of it, else the best one
    deepdanbooru/   tags: model.onnx and selected_tags.csv (SmilingWolf/wd-…-tagger)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdwebui_api.errors import NotFound

if TYPE_CHECKING:
    from PIL import Image

    from sdwebui_api.engine.engine import Engine
    from sdwebui_api.jobs.job import Job

BLIP, CLIP, TAGGER = "BLIP", "CLIP", "deepdanbooru"
MODELS = ("clip", "deepdanbooru")
_TOP = re.compile(r"\.top(\d+)$")


@dataclass(frozen=True)
class WordList:
    """One list: `top` words of it are taken."""

    name: str
    top: int
    words: tuple[str, ...]


class Interrogator:
    """Looks at pictures with the models in `folder`. Without an engine (tests of the doors) none can be asked."""

    def __init__(self, engine: Engine | None, folder: Path) -> None:
        self._engine = engine
        self._folder = folder

    def check(self, model: str) -> None:
        """Raises NotFound for an unknown `model` and for one whose files are not here, naming where they belong."""
        if model not in MODELS:
            raise NotFound("Model not found", field="model", choices=MODELS)
        needed = (
            [self._folder / BLIP / "config.json"]
            if model == "clip"
            else [self._folder / TAGGER / name for name in ("model.onnx", "selected_tags.csv")]
        )
        missing = [str(path) for path in needed if not path.is_file()]
        if missing:
            raise NotFound(f"the model is not installed: {' and '.join(missing)} missing", field="model")

    def describe(self, image: Image.Image, model: str, options: Mapping[str, Any], job: Job) -> str:
        """The caption or the tags, ready for a prompt. Raises NotFound, UnusableModel, OutOfMemory, Cancelled."""
        self.check(model)
        assert self._engine is not None
        if model == "clip":
            return self._caption(self._engine, image, options, job)
        return self._tags(self._engine, image, options, job)

    def _caption(self, engine: Engine, image: Image.Image, options: Mapping[str, Any], job: Job) -> str:
        from sdwebui_api.engine.captioning import Captioner, TextRanker, load_captioner, load_ranker

        with engine.auxiliary(self._folder / BLIP, load_captioner, Captioner, job.set_text) as captioner:
            job.set_text(None)
            caption = captioner.caption(
                image,
                beams=max(1, min(16, int(options["interrogate_clip_num_beams"]))),
                min_length=max(1, min(128, int(options["interrogate_clip_min_length"]))),
                max_length=max(1, min(256, int(options["interrogate_clip_max_length"]))),
                on_word=job.check,
            )
        lists = list(self.word_lists(options))
        if not lists or not (self._folder / CLIP / "config.json").is_file():
            return caption
        parts = [caption]
        with engine.auxiliary(self._folder / CLIP, load_ranker, TextRanker, job.set_text) as ranker:
            for words in lists:
                for word, share in ranker.best(image, words.words, words.top, job.check):
                    ranked = options["interrogate_return_ranks"]
                    parts.append(f"({word}:{share:.3f})" if ranked else word)
        return ", ".join(parts)

    def word_lists(self, options: Mapping[str, Any]) -> Iterator[WordList]:
        """The lists in alphabetical order; `interrogate_clip_skip_categories` and `…_dict_limit` heeded."""
        limit = int(options["interrogate_clip_dict_limit"])
        for path in sorted(self._folder.glob("*.txt")):
            found = _TOP.search(path.stem)
            name = path.stem[: found.start()] if found else path.stem
            if name in options["interrogate_clip_skip_categories"]:
                continue
            lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            words = [line for line in lines if line]
            if words:
                yield WordList(name, int(found[1]) if found else 1, tuple(words[:limit] if limit > 0 else words))

    def _tags(self, engine: Engine, image: Image.Image, options: Mapping[str, Any], job: Job) -> str:
        from sdwebui_api.engine.tagging import Tagger, load_tagger

        with engine.auxiliary(self._folder / TAGGER, load_tagger, Tagger, job.set_text) as tagger:
            job.set_text(None)
            return written_tags(tagger.scores(image), options)


def written_tags(scores: Mapping[str, float], options: Mapping[str, Any]) -> str:
    """The likely tags in one line, as the options `deepbooru_*` say."""
    threshold = options["interrogate_deepbooru_score_threshold"]
    hidden = {_plain(tag) for tag in str(options["deepbooru_filter_tags"]).split(",")}
    likely = [(tag, score) for tag, score in scores.items() if score >= threshold and _plain(tag) not in hidden]
    likely.sort(key=(lambda item: item[0]) if options["deepbooru_sort_alpha"] else (lambda item: -item[1]))
    return ", ".join(_written(tag, score, options) for tag, score in likely)


def _plain(tag: str) -> str:
    return tag.strip().replace(" ", "_").lower()


def _written(tag: str, score: float, options: Mapping[str, Any]) -> str:
    if options["deepbooru_use_spaces"]:
        tag = tag.replace("_", " ")
    if options["deepbooru_escape"]:
        tag = re.sub(r"([\\()])", r"\\\1", tag)
    return f"({tag}:{score:.3f})" if options["interrogate_return_ranks"] else tag
