from __future__ import annotations

from pathlib import Path

import pytest

from training import emoji_model
from training.glyphs import ANNOTATIONS, EMOJI_TEST, FONT, MissingPackage, load_glyphs, open_font, select_emojis


def test_the_font_gives_pictures_or_else_a_message_that_says_what_to_install() -> None:
    """The only test that looks for the system's font: both outcomes are checked, neither is skipped."""
    if not FONT.is_file():
        with pytest.raises(MissingPackage, match="apt-get install fonts-noto-color-emoji"):
            load_glyphs()
        return
    glyphs = load_glyphs(limit=40)
    assert len(glyphs) == 40
    assert all(glyph.picture.mode == "RGBA" and min(glyph.picture.size) >= 8 for glyph in glyphs)
    assert len({glyph.emoji.name for glyph in glyphs}) == 40
    assert [glyph.emoji.name for glyph in load_glyphs(limit=40)] == [glyph.emoji.name for glyph in glyphs]


def test_a_missing_font_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(MissingPackage, match="fonts-noto-color-emoji"):
        open_font(tmp_path / "NotoColorEmoji.ttf")


def test_the_command_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise MissingPackage("Install it with: apt-get install fonts-noto-color-emoji")

    monkeypatch.setattr("training.glyphs.load_glyphs", refuse)
    with pytest.raises(SystemExit) as left:
        emoji_model.main(["--output", str(tmp_path / "run")])
    assert left.value.code == 2
    assert "apt-get install fonts-noto-color-emoji" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # the same command works once the font is there


def test_names_come_from_python_when_the_unicode_packages_are_absent(tmp_path: Path) -> None:
    from training.glyphs import _names, _subgroups

    names, keywords = _names(tmp_path / "en.xml", tmp_path / "emoji-test.txt")
    assert names["\U0001f525"] == "fire" and names["\U0001f34e"] == "red apple"
    assert keywords == {} and _subgroups(tmp_path / "emoji-test.txt") == {}


def test_short_names_and_keywords_are_read_from_the_unicode_packages(tmp_path: Path) -> None:
    from training.glyphs import _names, _subgroups

    annotations, emoji_test = tmp_path / "en.xml", tmp_path / "emoji-test.txt"
    annotations.write_text(
        "<ldml><annotations><annotation cp='🔥'>flame | hot</annotation>"
        "<annotation cp='🔥' type='tts'>Fire</annotation></annotations></ldml>",
        encoding="utf-8",
    )
    emoji_test.write_text(
        "# group: Food & Drink\n# subgroup: food-fruit\n"
        "1F34E ; fully-qualified # 🍎 E0.6 red apple\n"
        "1F44D 1F3FB ; fully-qualified # 👍🏻 E1.0 thumbs up: light skin tone\n"
        "# group: Objects\n# subgroup: time-clock\n1F550 ; fully-qualified # 🕐 E0.6 one o’clock\n",
        encoding="utf-8",
    )
    names, keywords = _names(annotations, emoji_test)
    subgroups = _subgroups(emoji_test)
    assert names["\U0001f525"] == "fire" and keywords["\U0001f525"] == ["flame", "hot"]
    assert set(subgroups) == {"\U0001f34e", "\U0001f550"}
    chosen = select_emojis(names, keywords, subgroups)
    assert [(emoji.name, emoji.popular) for emoji in chosen] == [("red apple", True)]  # clocks are left out


def test_paths_are_debians() -> None:
    assert {path.parts[1] for path in (FONT, ANNOTATIONS, EMOJI_TEST)} == {"usr"}
