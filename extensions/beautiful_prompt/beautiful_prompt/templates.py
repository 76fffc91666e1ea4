"""How a language model is asked for a prompt, and what of its answer is the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Word for word as the model cards of alibaba-pai/pai-bloom-1b1-text2prompt-sd and …-sd-v2 give them: the models were
# tuned on these sentences.
_PAI_V1 = "Instruction: Give a simple description of the image to generate a drawing prompt.\nInput: {prompt}\nOutput:"
_PAI_V2 = (
    "Converts a simple image description into a prompt. Prompts are formatted as multiple related tags separated by "
    "commas, plus you can use () to increase the weight, [] to decrease the weight, or use a number to specify the "
    "weight. You should add appropriate words to make the images described in the prompt more aesthetically pleasing, "
    "but make sure there is a correlation between the input and output.\n### Input: {prompt}\n### Output:"
)
_CHAT = (
    "Rewrite this description of a picture as one prompt for Stable Diffusion: the same subject, then details, "
    "setting, light and style as short English phrases separated by commas. Answer with the prompt alone.\n\n{prompt}"
)
# A '#' would begin a comment, which is cut off; then what no text should hold, and halves of characters.
_UNWANTED = re.compile(r"[#\x00-\x1f\x7f-\x9f\ufffd]+")


@dataclass(frozen=True)
class Template:
    """name: as listings show it; text: what the model is given, `{prompt}` in it; temperature and repetition_penalty:
    what goes well with it; stops: where the answer is over if the model goes on; continues: the prompt is the
    beginning of the result; chat: `text` goes through the tokenizer's own chat template.
    """

    name: str
    text: str
    temperature: float = 1.0
    repetition_penalty: float = 1.1
    stops: tuple[str, ...] = ()
    continues: bool = False
    chat: bool = False

    def question(self, prompt: str) -> str:
        return self.text.replace("{prompt}", prompt)

    def answer(self, prompt: str, text: str, *, complete: bool) -> str:
        """The prompt in what the model wrote after the question, in one line; `prompt` itself if that is nothing.

        `complete`: the model came to an end of its own; else what follows the last comma is half a phrase.
        """
        for stop in self.stops:
            before, found, _ = text.partition(stop)
            text, complete = before, complete or bool(found)
        if not complete and "," in text:
            text = text.rpartition(",")[0]
        whole = f"{prompt}{text}" if self.continues else text
        return re.sub(r"\s+", " ", _UNWANTED.sub(" ", whole)).strip(" ,") or prompt


PAI_V1 = Template("pai-bloom-1b1-text2prompt-sd", _PAI_V1, 1.0, 1.2, ("\nInstruction:", "\nInput:", "\nOutput:"))
PAI_V2 = Template("pai-bloom-1b1-text2prompt-sd-v2", _PAI_V2, 0.9, 1.1, ("### Input:", "### Output:"))
CHAT = Template("chat", _CHAT, 0.8, 1.05, chat=True)
CONTINUATION = Template("continuation", "{prompt}", 0.9, 1.2, ("\n",), continues=True)


def own_template(given: Mapping[str, object]) -> Template:
    """That of a file beside the model. Raises ValueError saying what is wrong with it."""
    text, stops = given.get("template"), given.get("stops", [])
    if not isinstance(text, str) or "{prompt}" not in text:
        raise ValueError("template is a text with {prompt} in it")
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("stops is a list of texts")
    return Template(
        "own",
        text,
        _number(given, "temperature"),
        _number(given, "repetition_penalty"),
        tuple(stops),
        continues=given.get("continues") is True,
    )


def _number(given: Mapping[str, object], name: str) -> float:
    value = given.get(name, 1.0)
    if not isinstance(value, int | float) or not 0 < value <= 5:
        raise ValueError(f"{name} is a number above 0, at most 5")
    return float(value)
