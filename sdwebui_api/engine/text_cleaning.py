"""What happens to a text before CLIP's vocabulary cuts it into tokens.

CLIP's tokenizers clean texts with the package ftfy (Speer), which A1111 always has installed: typographic quotes,
ligatures, full-width characters and HTML entities become the plain characters that the model was trained on. Here is
what it does by default, except that it also guesses at texts that were decoded wrongly ("schÃ¶n").
"""

from __future__ import annotations

import html
import re
import unicodedata

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_LINE_BREAK = re.compile(r"\r\n|[\r\u2028\u2029\u0085]")
_C1_CONTROL = re.compile(r"[\x80-\x9f]")

_LIGATURES = {
    "Ĳ": "IJ",
    "ĳ": "ij",
    "ŉ": "ʼn",
    "Ǳ": "DZ",
    "ǲ": "Dz",
    "ǳ": "dz",
    "Ǆ": "DŽ",
    "ǅ": "Dž",
    "ǆ": "dž",
    "Ǉ": "LJ",
    "ǈ": "Lj",
    "ǉ": "lj",
    "Ǌ": "NJ",
    "ǋ": "Nj",
    "ǌ": "nj",
    "ﬀ": "ff",
    "ﬁ": "fi",
    "ﬂ": "fl",
    "ﬃ": "ffi",
    "ﬄ": "ffl",
    "ﬅ": "ſt",
    "ﬆ": "st",
}
_WIDTHS = {code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))}
_QUOTES = {
    **dict.fromkeys((0x02BC, *range(0x2018, 0x201C)), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
}
_CONTROLS = dict.fromkeys(
    (*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD))
)


def cleaned(text: str) -> str:
    """`text` as CLIP's vocabulary wants it, in lower case; what is plain already keeps its characters."""
    if not text.isascii() or "&" in text or not text.isprintable():
        text = _without_entities(text)
        text = _C1_CONTROL.sub(_windows_character, text)
        for characters in (str.maketrans(_LIGATURES), _WIDTHS, _QUOTES):
            text = text.translate(characters)
        text = _TERMINAL_ESCAPE.sub("", _LINE_BREAK.sub("\n", text)).translate(_CONTROLS)
        text = unicodedata.normalize("NFC", text)
    return text.lower()


def _without_entities(text: str) -> str:
    """With the characters that HTML entities stand for; from the first line with a `<` on, it may be real HTML."""
    lines = re.split(r"(?<=\n)", text)
    plain = next((number for number, line in enumerate(lines) if "<" in line), len(lines))
    return "".join(_ENTITY.sub(_entity, line) for line in lines[:plain]) + "".join(lines[plain:])


def _entity(match: re.Match[str]) -> str:
    """The character, or the entity itself where html knows only its beginning."""
    found = html.unescape(match[0])
    return match[0] if ";" in found and match[0] != "&semi;" else found


def _windows_character(match: re.Match[str]) -> str:
    """What a control character of Latin-1 was meant as."""
    return match[0].encode("latin-1").decode("windows-1252", errors="replace").replace("\ufffd", match[0])
