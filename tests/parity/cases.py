"""The recorded requests of A1111 1.10.1 in `tests/golden/cases`, and what each of them needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

GOLDEN = Path(__file__).parent.parent / "golden"
DEFAULT_FLOOR = 50.0
"""dB. The same algorithm with other attention arithmetic reproduces every recording with 69 dB or more."""


@dataclass(frozen=True)
class Case:
    name: str

    @property
    def folder(self) -> Path:
        return GOLDEN / "cases" / self.name

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The requests to send in order; the last one is the recorded one."""
        recorded = json.loads((self.folder / "request.json").read_text())
        return recorded.get("steps", [recorded])

    @cached_property
    def cleanup(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "request.json").read_text()).get("cleanup", [])

    @cached_property
    def answer(self) -> dict[str, Any]:
        return json.loads((self.folder / "response.json").read_text())

    @property
    def info(self) -> dict[str, Any]:
        return self.answer["info_parsed"]

    def image(self, index: int) -> Image.Image:
        return Image.open(self.folder / f"image-{index}.png")

    @property
    def image_count(self) -> int:
        return len(list(self.folder.glob("image-*.png")))

    @cached_property
    def needs(self) -> frozenset[str]:
        """What a server must have beyond the engine: `controlnet`, `controlnet routes`, `script`, `lora` …"""
        return frozenset(need for request in self.requests for need in _needs(request))

    @property
    def floor(self) -> float:
        """The PSNR in dB that this case must reach: 50, or what A1111 itself reached when it was repeated."""
        noise = json.loads((GOLDEN / "cases" / "noise.json").read_text())["cases"]
        return min(DEFAULT_FLOOR, noise.get(self.name, {}).get("psnr_min") or DEFAULT_FLOOR)


def _needs(request: dict[str, Any]) -> set[str]:
    body = request.get("body") or {}
    needs = set()
    scripts = {name.lower() for name in body.get("alwayson_scripts") or {}}
    if "controlnet" in scripts:
        needs.add("controlnet")
    if request["path"].startswith("/controlnet"):
        needs.add("controlnet routes")
    if body.get("script_name") or scripts - {"controlnet"}:
        needs.add("script")
    prompt = body.get("prompt") or ""
    if "<lora:" in prompt and not body.get("disable_extra_networks"):
        needs.add("lora")
    if "<hypernet:" in prompt:
        needs.add("hypernetwork")
    return needs


def all_cases() -> list[Case]:
    return [Case(folder.name) for folder in sorted((GOLDEN / "cases").iterdir()) if folder.is_dir()]


def cases(*available: str) -> list[Case]:
    """The cases that need nothing beyond `available`."""
    return [case for case in all_cases() if case.needs <= set(available)]
