"""Emoji pictures and their names, from Debian's font and Unicode data packages.

What comes from where:

- `fonts-noto-color-emoji` (needed): the pictures.
- `unicode-cldr-core` (optional): short names and keywords. Without it names come from emoji-test.txt, then from
  Python's `unicodedata`, and there are no keywords.
- `unicode-data` (optional): emoji-test.txt, which groups the emoji so that arrows, clocks and hands can be left out.
"""

from __future__ import annotations

import json
import unicodedata
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
ANNOTATIONS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
FONT_STRIKE = 109  # the only size NotoColorEmoji has bitmaps for

_WORDS = Path(__file__).with_name("emoji_words.json")
_USED_GROUPS = {
    "Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects", "Smileys & Emotion", "Symbols",
    "People & Body",
}  # fmt: skip
_SYMBOL_RANGES = (range(0x2600, 0x27C0), range(0x1F300, 0x1FB00))


class MissingPackage(RuntimeError):
    """A system package that training needs is absent; the message says what to install."""


@dataclass(frozen=True)
class Emoji:
    """One code point with its words: the CLDR short name, other nouns for it, and looser keywords."""

    character: str
    name: str
    aliases: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    popular: bool = False


@dataclass(frozen=True)
class Glyph:
    """An emoji and its picture: RGBA, cropped to what is drawn."""

    emoji: Emoji
    picture: Image.Image = field(repr=False, compare=False)

    def resized(self, longest_side: int) -> Image.Image:
        factor = longest_side / max(self.picture.size)
        size = (max(1, round(self.picture.width * factor)), max(1, round(self.picture.height * factor)))
        return self.picture.resize(size, Image.Resampling.LANCZOS)


def load_glyphs(
    font: Path = FONT, annotations: Path = ANNOTATIONS, emoji_test: Path = EMOJI_TEST, limit: int | None = None
) -> list[Glyph]:
    """Every emoji worth learning, drawn once; near-identical pictures are dropped.

    Raises MissingPackage when the font is not installed.
    """
    typeface = open_font(font)
    emojis = select_emojis(*_names(annotations, emoji_test), _subgroups(emoji_test))
    glyphs: list[Glyph] = []
    thumbnails: list[np.ndarray] = []
    for emoji in emojis:
        picture = draw_glyph(emoji.character, typeface)
        if picture is None:
            continue
        thumbnail = _thumbnail(picture)
        if any(np.abs(thumbnail - other).mean() < 2.0 for other in thumbnails):
            continue
        thumbnails.append(thumbnail)
        glyphs.append(Glyph(emoji, picture))
        if len(glyphs) == limit:
            break
    return glyphs


def open_font(path: Path = FONT) -> ImageFont.FreeTypeFont:
    if not path.is_file():
        raise MissingPackage(
            f"The emoji font {path} is missing. Install it with: apt-get install fonts-noto-color-emoji "
            "(and, for better captions, unicode-cldr-core unicode-data)"
        )
    return ImageFont.truetype(str(path), FONT_STRIKE)


def draw_glyph(character: str, typeface: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The colour bitmap of one character cropped to its content, or None when the font has none."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((12, 8), character, font=typeface, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        return None
    picture = canvas.crop(box)
    return None if min(picture.size) < 8 else picture


def _thumbnail(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture.resize((24, 24)), np.float32)
    return pixels[..., :3] * (pixels[..., 3:] / 255)


def select_emojis(
    names: dict[str, str], keywords: dict[str, list[str]], subgroups: dict[str, tuple[str, str]]
) -> list[Emoji]:
    """Single code points whose picture says what its name says, in the order of emoji-test.txt."""
    words = json.loads(_WORDS.read_text(encoding="utf-8"))
    popular = set(words["popular"])
    chosen = []
    for character in subgroups or names:
        name = names.get(character)
        group, subgroup = subgroups.get(character, ("Symbols", ""))
        if name is None or group not in _USED_GROUPS or not _wanted(name, subgroup, words):
            continue
        aliases = tuple(words["aliases"].get(name, ()))
        extra = [k for k in keywords.get(character, ()) if k not in (name, "face", "emoji", *aliases) and len(k) < 24]
        plain_shape = name.endswith((" circle", " square"))
        chosen.append(Emoji(character, name, aliases, tuple(extra[:6]), name in popular or plain_shape))
    return chosen


def _wanted(name: str, subgroup: str, words: dict) -> bool:
    if name in words["popular"] or name in words["kept_from_skipped_subgroups"]:
        return True
    if subgroup in words["skipped_subgroups"] or "o'clock" in name or "-thirty" in name:
        return False
    if subgroup.startswith("face-") and name not in words["kept_faces"]:
        return False
    if subgroup in words["kept_by_subgroup"] and name not in words["kept_by_subgroup"][subgroup]:
        return False
    if "moon" in name and name not in words["kept_moons"]:
        return False
    return not (subgroup == "geometric" and any(word in name for word in ("small", "medium", "button")))


def _names(annotations: Path, emoji_test: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Names and keywords per character, from the best source there is."""
    names = {chr(c): unicodedata.name(chr(c), "").lower() for block in _SYMBOL_RANGES for c in block}
    names = {character: name for character, name in names.items() if name}
    if emoji_test.is_file():
        names.update({character: name for character, name, _, _ in _read_emoji_test(emoji_test)})
    if not annotations.is_file():
        return names, {}
    short_names, keywords = _read_annotations(annotations)
    return {**names, **short_names}, keywords


def _subgroups(emoji_test: Path) -> dict[str, tuple[str, str]]:
    if not emoji_test.is_file():
        return {}
    return {character: (group, subgroup) for character, _, group, subgroup in _read_emoji_test(emoji_test)}


def _read_annotations(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """CLDR's `<annotation cp="🔥">fire | flame | tool</annotation>` and, with type="tts", the short name."""
    names: dict[str, str] = {}
    keywords: dict[str, list[str]] = {}
    for row in ElementTree.parse(path).getroot().iter("annotation"):
        character = _single(row.get("cp", ""))
        text = _plain(row.text or "")
        if character and row.get("type") == "tts":
            names[character] = text
        elif character:
            keywords[character] = [word.strip() for word in text.split("|")]
    return names, keywords


def _read_emoji_test(path: Path) -> list[tuple[str, str, str, str]]:
    """Rows (character, name, group, subgroup) from lines such as `1F525 ; fully-qualified # 🔥 E0.6 fire`."""
    rows: list[tuple[str, str, str, str]] = []
    group = subgroup = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        elif ";" in line and not line.startswith("#"):
            character = _single("".join(chr(int(code, 16)) for code in line.split(";")[0].split()))
            if character:
                name = line.split("#", 1)[1].split(maxsplit=2)[-1]
                rows.append((character, _plain(name), group, subgroup))
    return rows


def _single(text: str) -> str:
    """The one code point of `text` without its variation selector, or "" for sequences (flags, skin tones…)."""
    text = text.replace("\ufe0f", "")
    return text if len(text) == 1 else ""


def _plain(text: str) -> str:
    return text.strip().lower().replace("’", "'").replace("“", "").replace("”", "")
