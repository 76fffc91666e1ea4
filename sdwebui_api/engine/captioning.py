"""A caption for a picture (BLIP), and the words of a list that fit it best (CLIP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdwebui_api.engine.devices import Device, DevicePlan
from sdwebui_api.engine.libraries import IMPORTING
from sdwebui_api.engine.pictures import normalised, picture_dtype, pretrained
from sdwebui_api.errors import UnusableModel

# CLIP's training statistics (openai/CLIP, clip/clip.py); BLIP uses them too.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
TEXTS_AT_ONCE = 64


class Captioner:
    """BLIP, from a folder in the format of transformers (`Salesforce/blip-image-captioning-base`)."""

    def __init__(self, model: Any, tokenizer: Any, dtype: torch.dtype, device: Device) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._device = device

    def caption(
        self,
        image: Image.Image,
        *,
        beams: int = 1,
        min_length: int = 24,
        max_length: int = 48,
        on_word: Callable[[], None] = lambda: None,
    ) -> str:
        """`on_word` is called for every word and may raise to end the work. Raises OutOfMemory."""
        side = int(self._model.config.vision_config.image_size)
        pixels = normalised(image, (side, side), MEAN, STD)

        def watch(input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            on_word()
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        with self._device.running(self._model):
            found = self._model.generate(
                pixels.to(self._device.plan.device, self._dtype),
                do_sample=False,
                num_beams=beams,
                min_length=min(min_length, max_length),
                max_length=max_length,
                stopping_criteria=[watch],
            )
        return str(self._tokenizer.decode(found[0], skip_special_tokens=True)).strip()


class TextRanker:
    """CLIP, from a folder in the format of transformers (`openai/clip-vit-large-patch14`)."""

    def __init__(self, model: Any, tokenizer: Any, dtype: torch.dtype, device: Device) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._device = device

    def best(
        self, image: Image.Image, texts: Sequence[str], count: int, on_texts: Callable[[], None] = lambda: None
    ) -> list[tuple[str, float]]:
        """The `count` of `texts` that fit best, with their share of 1 among all of them, best first."""
        side = int(self._model.config.vision_config.image_size)
        pixels = normalised(image, (side, side), MEAN, STD)
        with self._device.running(self._model):
            seen = _features(self._model.get_image_features(pixels.to(self._device.plan.device, self._dtype)))
        found = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            on_texts()
            found.append(self._text_features(list(texts[start : start + TEXTS_AT_ONCE])))
        likeness = (100.0 * seen @ torch.cat(found).T).softmax(dim=-1)[0]
        top = likeness.topk(min(count, len(texts)))
        return [(texts[int(index)], float(value)) for value, index in zip(*top, strict=True)]

    def _text_features(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        inputs = {name: tensor.to(self._device.plan.device) for name, tensor in tokens.items()}
        with self._device.running(self._model):
            return _features(self._model.get_text_features(**inputs))


def _features(output: Any) -> Tensor:
    """[n, D] float32 of length 1. transformers 5 answers an object where 4 answered the tensor."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    features = features.float()
    return features / features.norm(dim=-1, keepdim=True)


def load_captioner(folder: Path, plan: DevicePlan, device: Device) -> Captioner:
    """Raises UnusableModel when the folder holds no BLIP."""
    with IMPORTING:
        from transformers import BertTokenizer, BlipForConditionalGeneration

    model, dtype = pretrained(BlipForConditionalGeneration, folder), picture_dtype(plan)
    return Captioner(model.to(plan.storage, dtype), _tokenizer(BertTokenizer, folder), dtype, device)


def load_ranker(folder: Path, plan: DevicePlan, device: Device) -> TextRanker:
    """Raises UnusableModel when the folder holds no CLIP."""
    with IMPORTING:
        from transformers import CLIPModel, CLIPTokenizer

    model, dtype = pretrained(CLIPModel, folder), picture_dtype(plan)
    return TextRanker(model.to(plan.storage, dtype), _tokenizer(CLIPTokenizer, folder), dtype, device)


def _tokenizer(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise UnusableModel(f"{folder} holds no vocabulary that can be read: {error}"[:500]) from error
