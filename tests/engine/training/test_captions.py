from __future__ import annotations

import random

import pytest

from sdwebui_api.engine.training.captions import SHIPPED, FileNameWords, PromptWriter, caption_of, read_template
from sdwebui_api.errors import BadRequest, NotFound


def test_caption_comes_from_the_text_file_or_the_name(tmp_path):
    image = tmp_path / "0012-3 a red apple.png"
    assert caption_of(image, FileNameWords()) == "a red apple"
    image.with_suffix(".txt").write_text(" a green apple, on a table\n")
    assert caption_of(image, FileNameWords()) == "a green apple, on a table"


def test_words_of_a_name_by_regular_expression():
    assert FileNameWords.from_options(r"\w+", ", ").of("12-red_apple+table") == "red_apple, table"
    with pytest.raises(BadRequest, match="not a regular expression"):
        FileNameWords.from_options("(", " ")
    slow = FileNameWords.from_options(r"(?:\w|[\w.]|\w\w)*[!?]", " ")
    with pytest.raises(BadRequest, match="too long"):
        slow.of("a" * 200)


def test_prompt_is_the_template_filled():
    writer = PromptWriter(("a [name] with [filewords]",), "gizmo")
    assert writer.prompt("a hat, blue", random.Random(0)) == "a gizmo with a hat, blue"


def test_every_template_is_used():
    writer = PromptWriter(("one [name]", "two [name]"), "x")
    dice = random.Random(1)
    assert {writer.prompt("", dice) for _ in range(50)} == {"one x", "two x"}


def test_tags_are_shuffled_and_dropped():
    dice = random.Random(2)
    caption = ", ".join("abcdefgh")
    shuffled = PromptWriter(("[filewords]",), "x", shuffle_tags=True).prompt(caption, dice)
    assert shuffled != caption and sorted(shuffled.split(", ")) == list("abcdefgh")
    half = PromptWriter(("[filewords]",), "x", tag_drop_out=0.5)
    lengths = [len(half.prompt(caption, dice).split(", ")) for _ in range(200)]
    assert 3.5 < sum(lengths) / 200 < 4.5
    assert PromptWriter(("[filewords]",), "x", tag_drop_out=1).prompt(caption, dice) == ""


def test_templates_are_found_by_name_and_own_ones_first(tmp_path):
    (tmp_path / "style.txt").write_text("mine [name]\n\n  again [name] \n")
    assert read_template("style.txt", [tmp_path, SHIPPED]) == ("mine [name]", "again [name]")
    assert all("[filewords]" in line for line in read_template("style_filewords", [tmp_path, SHIPPED]))


@pytest.mark.parametrize("name", ["", "none2.txt", "../style.txt", "/etc/passwd"])
def test_unknown_template_names_the_choices(name):
    with pytest.raises(NotFound) as caught:
        read_template(name, [SHIPPED])
    assert caught.value.field == "template_filename" and "subject.txt" in caught.value.choices


def test_empty_template(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(BadRequest, match="is empty"):
        read_template("empty.txt", [tmp_path])
