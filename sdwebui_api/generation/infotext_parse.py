"""Reading infotext back: its entries, the defaults A1111 fills in, and what they set in a request.

Answers equal those of A1111 1.10.1's `modules/infotext_utils.py` and `infotext_versions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.hires import old_first_pass_size
from sdwebui_api.imaging.metadata import unquote
from sdwebui_api.prompting.attention import parse_attention
from sdwebui_api.prompting.styles import StyleTexts

Params = dict[str, Any]

_ENTRY = re.compile(r'(\w[\w \-/]{1,100}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"^(\d+)x(\d+)$")
_LEAST_ENTRIES = 3
"""A last line with fewer entries is part of the prompt."""
_LONGEST_SIDE = 2**20
"""Pixels; no program makes pictures with longer ones."""
_LONGEST_ENTRIES = 200_000
"""So is a longer one: pictures come from strangers, and reading must not take seconds."""

_DEFAULTS_BEFORE_OLD_HIRES: Params = {
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
}
_DEFAULTS: Params = {
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
}


def parse_generation_parameters(
    text: str,
    *,
    styles: Iterable[StyleTexts] = (),
    infotext_styles: str = "Apply if any",
    skip_fields: Collection[str] = (),
    auto_backcompat: bool = True,
    old_hires_size: bool = False,
) -> Params:
    """The entries of an infotext, sizes split (`Size-1`), with A1111's defaults for what is missing.

    `styles` are recognised in the prompts and taken out, as the option `infotext_styles` says ("Ignore",
    "Apply", "Apply if any", "Discard"). `skip_fields`: option `infotext_skip_pasting`; `auto_backcompat`: option
    of that name; `old_hires_size`: option `use_old_hires_fix_width_height`. LoRAs are called as the text calls them
    (`networks.with_names_of_this_server`).
    """
    prompt, negative_prompt, entries = _split(text)
    res: Params = _parse_entries(entries)
    if infotext_styles != "Ignore":
        prompt, negative_prompt = _take_styles_out(res, prompt, negative_prompt, tuple(styles), infotext_styles)
    res["Prompt"] = prompt
    res["Negative prompt"] = negative_prompt
    _fill_defaults(res, prompt, negative_prompt, old_hires_size)
    if auto_backcompat:
        _restore_old_behaviour(res)
    for name in skip_fields:
        res.pop(name, None)
    return res


def _split(text: str) -> tuple[str, str, str]:
    """Prompt, negative prompt and the line of entries (empty when there is none)."""
    *lines, entries = text.strip().split("\n")
    if len(entries) > _LONGEST_ENTRIES or len(_ENTRY.findall(entries)) < _LEAST_ENTRIES:
        lines.append(entries)
        entries = ""
    positive: list[str] = []
    negative: list[str] = []
    current = positive
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            current = negative
            line = line.removeprefix("Negative prompt:").strip()
        if current or line:
            current.append(line)
    return "\n".join(positive), "\n".join(negative), entries


def _parse_entries(text: str) -> Params:
    res: Params = {}
    for name, raw in _ENTRY.findall(text):
        value = unquote(raw)
        size = _SIZE.match(value)
        if size:
            res[f"{name}-1"], res[f"{name}-2"] = size.groups()
        else:
            res[name] = value
    return res


def _fill_defaults(res: Params, prompt: str, negative_prompt: str, old_hires_size: bool) -> None:
    res.setdefault("Clip skip", "1")
    if "Hypernet" in res:
        res["Prompt"] += f"<hypernet:{res['Hypernet']}:{res.get('Hypernet strength', '1.0')}>"
    if "Hires resize-1" not in res:
        res["Hires resize-1"] = res["Hires resize-2"] = 0
    for name, value in _DEFAULTS_BEFORE_OLD_HIRES.items():
        res.setdefault(name, value)
    _restore_old_hires_size(res, old_hires_size)
    for name, value in _DEFAULTS.items():
        res.setdefault(name, value)
    if res["FP8 weight"] != "Disable":
        res.setdefault("Cache FP16 weight for LoRA", False)
    if "Emphasis" not in res and _uses_emphasis(prompt, negative_prompt):
        res["Emphasis"] = "Original"
    res.setdefault("Refiner switch by sampling steps", False)


def _uses_emphasis(*prompts: str) -> bool:
    try:
        fragments = [fragment for prompt in prompts for fragment in parse_attention(prompt)]
    except BadRequest:
        return False  # a prompt that cannot be weighted uses no emphasis
    return any(weight != 1.0 and text != "BREAK" for text, weight in fragments)


def _restore_old_hires_size(res: Params, old_hires_size: bool) -> None:
    """Texts of A1111 before hires "upscale by" give the final size as `Size` and the first one beside it."""
    if old_hires_size:
        width, height = _whole(res["Hires resize-1"]), _whole(res.get("Hires resize-2", 0))
        if width and height:
            res["Size-1"], res["Size-2"] = width, height
            return
    if "First pass size-1" not in res:
        return
    first_width, first_height = _whole(res["First pass size-1"]), _whole(res["First pass size-2"])
    width, height = _whole(res.get("Size-1", 512)), _whole(res.get("Size-2", 512))
    if not first_width or not first_height:
        first_width, first_height = old_first_pass_size(max(width, 1), max(height, 1))
    res["Size-1"], res["Size-2"] = first_width, first_height
    res["Hires resize-1"], res["Hires resize-2"] = width, height


def _whole(value: Any) -> int:
    """0 for what is no side of a picture: the text is a stranger's, and may have a number of a thousand digits."""
    try:
        side = int(value)
    except (TypeError, ValueError):
        return 0
    return side if abs(side) <= _LONGEST_SIDE else 0


_A1111_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:-(\d+))?(?:-g?[0-9a-f]+)?")


def parse_version(text: Any) -> tuple[int, int, int, int] | None:
    """`v1.7.0-225-gabc` as (1, 7, 0, 225); None for anything that is no A1111 version, ours included."""
    match = _A1111_VERSION.fullmatch(str(text).strip())
    if match is None:
        return None
    major, minor, patch, commits = (int(part or 0) for part in match.groups())
    return major, minor, patch, commits


def _restore_old_behaviour(res: Params) -> None:
    """Settings that make this program draw what the A1111 version named in the text would have drawn."""
    version = parse_version(res.get("Version"))
    if version is None:
        return
    if version < (1, 6, 0, 0) and "[" in res.get("Prompt", ""):
        res["Old prompt editing timelines"] = True
    if version < (1, 6, 0, 0) and res.get("Sampler") in ("DDIM", "PLMS"):
        res["Pad conds v0"] = True
    if version < (1, 7, 0, 225):
        res["Downcast alphas_cumprod"] = True
    if version < (1, 8, 0, 0) and res.get("Refiner"):
        res["Refiner switch by sampling steps"] = True


def _take_styles_out(
    res: Params, prompt: str, negative_prompt: str, styles: tuple[StyleTexts, ...], mode: str
) -> tuple[str, str]:
    """The prompts without the styles found in them; `res` gets `Styles array` and the hires prompts."""
    found, plain, plain_negative = extract_styles(prompt, negative_prompt, styles)
    version = parse_version(res.get("Version"))
    # Before that version hires prompts were written without their styles.
    styled_hires = version is None or version > (1, 8, 0, 139)
    if ("Hires prompt" in res or "Hires negative prompt" in res) and styled_hires:
        hires = (res.get("Hires prompt", prompt), res.get("Hires negative prompt", negative_prompt))
        hires_found, hires_plain, hires_plain_negative = extract_styles(*hires, styles)
        if hires_found != found:
            return prompt, negative_prompt
        res["Hires prompt"] = "" if hires_plain == plain else hires_plain
        res["Hires negative prompt"] = "" if hires_plain_negative == plain_negative else hires_plain_negative
    if mode == "Apply" or (mode == "Apply if any" and found):
        res["Styles array"] = found
    return plain, plain_negative


def extract_styles(prompt: str, negative_prompt: str, styles: Iterable[StyleTexts]) -> tuple[list[str], str, str]:
    """The styles that both prompts contain, in the order they were applied, and the prompts without them."""
    left = [style for style in styles if style.prompt or style.negative_prompt]
    found: list[str] = []
    searching = True
    while searching:
        searching = False
        for style in left:
            without = _without_style(style.prompt, prompt)
            negative_without = _without_style(style.negative_prompt, negative_prompt)
            if without is not None and negative_without is not None:
                prompt, negative_prompt = without, negative_without
                left.remove(style)
                found.insert(0, style.name)
                searching = True
                break
    return found, prompt, negative_prompt


def _without_style(style_text: str, prompt: str) -> str | None:
    """What `prompt` was before `style_text` was applied to it; None when it was not."""
    if not style_text:
        return prompt
    text, style_text = " ".join(prompt.split()), " ".join(style_text.split())
    if "{prompt}" in style_text:
        before, _, after = style_text.partition("{prompt}")
        fits = text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)
        return text[len(before) : len(text) - len(after)] if fits else None
    if not text.endswith(style_text):
        return None
    return text[: len(text) - len(style_text)].removesuffix(", ")
