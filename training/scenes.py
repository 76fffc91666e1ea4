"""What a training picture shows, and drawing it at any size.

A Scene is abstract (fractions of the canvas), so one scene can be drawn at 128x128 and at 512x384, and several
captions can be written for it (captions.py). Everything random comes from the `random.Random` handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from PIL import Image, ImageDraw

from training.glyphs import Glyph

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "white": (255, 255, 255), "black": (16, 16, 16), "red": (220, 50, 47), "green": (60, 170, 80),
    "blue": (50, 100, 220), "yellow": (250, 215, 60), "orange": (245, 140, 40), "purple": (140, 80, 190),
    "pink": (250, 160, 195), "gray": (140, 140, 140), "brown": (130, 85, 55), "light blue": (160, 210, 245),
    "dark blue": (20, 40, 100), "light green": (180, 230, 170), "cyan": (70, 205, 215),
}  # fmt: skip
PLACES: dict[str, tuple[float, float]] = {
    "on the left": (0.25, 0.5), "on the right": (0.75, 0.5), "at the top": (0.5, 0.25), "at the bottom": (0.5, 0.75),
    "in the center": (0.5, 0.5),
}  # fmt: skip
COUNTS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Background:
    """A plain colour, or two colours in a pattern ("gradient", "striped", "dotted"). `named`: captions mention it."""

    colours: tuple[str, ...] = ("white",)
    pattern: str = ""
    named: bool = False


@dataclass(frozen=True)
class Placed:
    """A glyph's centre (fractions of width and height), its longest side (fraction of the shorter canvas side) and
    the words a caption may use for its size and place."""

    glyph: Glyph
    x: float = 0.5
    y: float = 0.5
    size: float = 0.8125
    size_word: str = ""
    place: str = ""


@dataclass(frozen=True)
class Scene:
    """`layout` is "single", "varied", "pair", "stack", "triple" or "several" (copies of one glyph)."""

    objects: tuple[Placed, ...]
    background: Background = Background()
    layout: str = "single"


@dataclass(frozen=True)
class SceneMix:
    """How often each layout is drawn (shares, any sum), and how much more often the popular glyphs are."""

    single: float = 0.35
    varied: float = 0.455
    pair: float = 0.195
    stack: float = 0.0
    triple: float = 0.0
    several: float = 0.0
    patterned_backgrounds: float = 0.0
    popular_weight: float = 16.0


BASIC_MIX = SceneMix()
WIDE_MIX = SceneMix(
    single=0.25, varied=0.33, pair=0.18, stack=0.06, triple=0.08, several=0.1, patterned_backgrounds=0.25,
    popular_weight=2.0,
)  # fmt: skip


class Composer:
    """Draws random scenes. Same glyphs, mix and `random` state: same scenes."""

    def __init__(self, glyphs: Sequence[Glyph], mix: SceneMix = BASIC_MIX) -> None:
        if not glyphs:
            raise ValueError("a composer needs at least one glyph")
        self.glyphs = glyphs
        self.mix = mix
        self._weights = list(accumulate(mix.popular_weight if g.emoji.popular else 1.0 for g in glyphs))
        layouts: dict[Callable[[Random], Scene], float] = {
            self.single: mix.single, self.varied: mix.varied, self.pair: mix.pair, self.stack: mix.stack,
            self.triple: mix.triple, self.several: mix.several,
        }  # fmt: skip
        self._layouts, self._shares = list(layouts), list(accumulate(layouts.values()))

    def scene(self, random: Random) -> Scene:
        return random.choices(self._layouts, cum_weights=self._shares)[0](random)

    def glyph(self, random: Random) -> Glyph:
        return random.choices(self.glyphs, cum_weights=self._weights)[0]

    def single(self, random: Random) -> Scene:
        """One centred glyph on white: what "a red apple" should give."""
        return Scene((Placed(self.glyph(random)),))

    def varied(self, random: Random) -> Scene:
        """One glyph of some size, somewhere, on some background."""
        size_word = random.choices(["", "small", "large"], [0.6, 0.22, 0.18])[0]
        size = {"": 0.8125, "large": 0.97}.get(size_word) or random.uniform(0.36, 0.45)
        place = random.choice(list(PLACES)) if size_word == "small" and random.random() < 0.6 else ""
        x, y = PLACES.get(place, (0.5, 0.5))
        placed = Placed(self.glyph(random), x, y, size, size_word, place)
        return Scene((placed,), self.background(random, 0.75), "varied")

    def pair(self, random: Random) -> Scene:
        left, right = (Placed(self.glyph(random), x, 0.5, 0.47) for x in (0.258, 0.742))
        return Scene((left, right), self.background(random, 0.25), "pair")

    def stack(self, random: Random) -> Scene:
        upper, lower = (Placed(self.glyph(random), 0.5, y, 0.47) for y in (0.258, 0.742))
        return Scene((upper, lower), self.background(random, 0.25), "stack")

    def triple(self, random: Random) -> Scene:
        placed = tuple(Placed(self.glyph(random), (i + 0.5) / 3, 0.5, 0.31) for i in range(3))
        return Scene(placed, self.background(random, 0.25), "triple")

    def several(self, random: Random) -> Scene:
        glyph, count = self.glyph(random), random.choice(list(COUNTS))
        spots = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)] if count == 4 else None
        spots = spots or [((i + 0.5) / count, 0.5) for i in range(count)]
        size = 0.31 if count == 3 else 0.45
        return Scene(tuple(Placed(glyph, x, y, size) for x, y in spots), self.background(random, 0.25), "several")

    def background(self, random: Random, share: float) -> Background:
        """A named background in `share` of the calls, else plain white that captions leave out."""
        if random.random() >= share:
            return Background()
        if random.random() >= self.mix.patterned_backgrounds:
            return Background((random.choice(list(COLOURS)),), named=True)
        pattern = random.choice(["gradient", "striped", "dotted"])
        return Background(tuple(random.sample(list(COLOURS), 2)), pattern, named=True)


def draw_scene(scene: Scene, width: int, height: int) -> Image.Image:
    """The scene as an RGB picture of `width` x `height` pixels."""
    picture = _draw_background(scene.background, width, height)
    side = min(width, height)
    for placed in scene.objects:
        glyph = placed.glyph.resized(max(1, round(placed.size * side)))
        corner = (round(placed.x * width - glyph.width / 2), round(placed.y * height - glyph.height / 2))
        picture.paste(glyph, corner, glyph)
    return picture


def _draw_background(background: Background, width: int, height: int) -> Image.Image:
    first, *rest = (COLOURS[name] for name in background.colours)
    picture = Image.new("RGB", (width, height), first)
    if not background.pattern:
        return picture
    second = Image.new("RGB", (width, height), rest[0])
    if background.pattern == "gradient":
        return Image.composite(second, picture, Image.linear_gradient("L").resize((width, height)))
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    step = min(width, height) / 8
    if background.pattern == "striped":
        for i in range(0, round(width / step) + 1, 2):
            pen.rectangle((i * step, 0, (i + 1) * step - 1, height), fill=255)
    else:
        for i in range(round(width / step) + 1):
            for j in range(round(height / step) + 1):
                x, y, radius = (i + 0.5) * step, (j + 0.5) * step, step / 5
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return Image.composite(second, picture, mask)
