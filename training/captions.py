"""Captions for scenes: lower-case English as people type it into a prompt box.

A caption may call a glyph by its name, an alias ("car" for "automobile") or a keyword, and says only some of what is
visible. `NEGATIVES` are what people type as negative prompts; they are trained as unconditional.
"""

from __future__ import annotations

from random import Random

from training.glyphs import Emoji
from training.scenes import COUNTS, Background, Placed, Scene

NEGATIVES = (
    "blurry", "low quality", "worst quality, low quality", "blurry, low quality", "ugly, blurry", "bad quality",
    "lowres, text, watermark", "bad anatomy, low quality", "text, watermark, blurry",
)  # fmt: skip
QUALITY_TAGS = (
    "masterpiece", "best quality", "highly detailed", "high quality", "4k", "8k", "beautiful", "cute", "colorful",
    "simple", "digital art", "sharp", "hd", "detailed",
)  # fmt: skip
STYLES = ("simple icon", "icon", "clip art", "sticker", "flat design")
_SINGLE_TEMPLATES = {
    "{a}": 0.48, "{n}": 0.14, "{n} emoji": 0.08, "an emoji of {a}": 0.05, "{a} on a white background": 0.07,
    "a picture of {a}": 0.04, "a photo of {a}": 0.04, "{a}, {style}": 0.04, "a drawing of {a}": 0.02,
    "an illustration of {a}": 0.02, "an icon of {a}": 0.02,
}  # fmt: skip


def caption(scene: Scene, random: Random) -> str:
    """One of many captions that are true of `scene`."""
    if scene.layout == "single":
        text = _single(scene, random)
    else:
        text = _objects(scene, random) + _background(scene.background, random)
    if random.random() < 0.10:
        tags = ", ".join(random.sample(QUALITY_TAGS, random.choice([1, 1, 2, 3])))
        text = f"{tags}, {text}" if random.random() < 0.5 else f"{text}, {tags}"
    return text.lower()


def training_caption(scene: Scene, random: Random) -> str:
    """A caption, or in a tenth of the calls none: guidance needs the unconditional model too."""
    chance = random.random()
    if chance < 0.10:
        return ""
    return random.choice(NEGATIVES) if chance < 0.115 else caption(scene, random)


def plain_caption(emoji: Emoji) -> str:
    """ "a red apple": the prompt that evaluation uses."""
    return with_article(emoji.name)


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    if noun.endswith("s"):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "sh", "x", "z")) else "s")


def _single(scene: Scene, random: Random) -> str:
    noun = _noun(scene.objects[0].glyph.emoji, random)
    template = random.choices(list(_SINGLE_TEMPLATES), list(_SINGLE_TEMPLATES.values()))[0]
    return template.format(n=noun, a=_article(noun, random), style=random.choice(STYLES))


def _objects(scene: Scene, random: Random) -> str:
    if scene.layout == "several":
        noun = _noun(scene.objects[0].glyph.emoji, random)
        return f"{COUNTS[len(scene.objects)]} {plural(noun)}"
    phrases = [_phrase(placed, random) for placed in scene.objects]
    if scene.layout == "stack":
        return f"{phrases[0]} {random.choice(['above', 'on top of', 'over'])} {phrases[1]}"
    if scene.layout == "pair" and random.random() < 0.25:
        joint = random.choice(["{} next to {}", "{} beside {}", "{} on the left and {} on the right", "{} with {}"])
        return joint.format(*phrases)
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _phrase(placed: Placed, random: Random) -> str:
    noun = f"{placed.size_word} {_noun(placed.glyph.emoji, random)}".strip()
    return f"{_article(noun, random)} {placed.place}".rstrip()


def _noun(emoji: Emoji, random: Random) -> str:
    chance = random.random()
    if chance < 0.12 and emoji.keywords:
        return random.choice(emoji.keywords)
    if chance < 0.45 and emoji.aliases:
        return random.choice(emoji.aliases)
    return emoji.name


def _article(noun: str, random: Random) -> str:
    chance = random.random()
    if chance < 0.6:
        return with_article(noun)
    return f"the {noun}" if chance < 0.7 else noun


def _background(background: Background, random: Random) -> str:
    if not background.named:
        return ""
    name = " and ".join(background.colours)
    if background.pattern:
        name = f"{name} {background.pattern}"
    chance = random.random()
    if chance < 0.7:
        return f" on {with_article(name)} background"
    return f", {name} background" if chance < 0.85 or background.pattern else f" on {name}"
