"""What the server says to every client, in the words of the page: its messages are English and hold values."""

from __future__ import annotations

import re

from sdwebui_api.webui.localization import t
from sdwebui_api.webui.localization.marks import is_marked

TEMPLATES = (
    "Input should be a valid number, unable to parse string as a number",
    "Input should be a valid integer, unable to parse string as an integer",
    "Input should be a valid integer",
    "Input should be a valid number",
    "Input should be a finite number",
    "Input should be a valid string",
    "Input should be greater than or equal to {limit}",
    "Input should be less than or equal to {limit}",
    "Input should be greater than {limit}",
    "Input should be less than {limit}",
    "String should have at most {limit} characters",
    "not an image in a known format",
    "broken image: {problem}",
    "image too large: {problem}",
    "A picture has at least {limit} pixels a side; 0 means not given",
    "The second pass would be smaller than {limit} pixels a side",
    "The second pass of {size} is too large",
    "At most {limit} batches of this size fit into one request",
    "{count} pictures of {size} at once are too much",
    "Sampler not found: {name}",
    "Scheduler not found: {name}",
    "upscaler {name} not found",
    "The prompt has {count} characters, more than {limit}",
    "More than {limit} brackets are open at the same place in the prompt",
    "The prompt changes too often for its length",
    "The weight {weight} in the prompt is not a number",
    "A weight in the prompt is too large",
    "The unit is enabled but names no model",
    "The unit is enabled but has no picture",
    "A mask without a picture",
    "{count} units are enabled, at most {limit} can be",
    "There is no face in the picture",
    "this server restores no faces",
    "no faces can be restored here",
    "There is no checkpoint. Put one into model_store/Stable-diffusion and refresh",
    "There is not enough memory for this request; try a smaller size or batch",
    "The job failed ({kind}); the log tells more under its id {id}",
    "The server is shutting down",
    "As many requests of yours are waiting as may",
    "{count} requests are waiting already",
    "Another training is running; it can be interrupted or waited for",
    "What it made could not be kept; the log tells more",
    "The series could not go on; the log tells more",
    "settings are frozen on this server",
    "{value} is not accepted; expected {expected}",
    "pictures are only saved below {folders} of the data directory",
    "this method needs a second checkpoint",
    "this method needs a third checkpoint",
    "a checkpoint is needed",
    "{name} exists already",
    "must be a plain file name, without folders",
)
"""As they are written in the server's code (and pydantic's). The first that fits counts."""

_FIELD = re.compile(r"([\w.\[\]-]{1,200}): (?=\S)")


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(f"(?P<{part}>.+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)))


_PATTERNS = [(template, _pattern(template)) for template in TEMPLATES]


def said(message: str) -> str:
    """`message` for the page, to be translated on its way out as far as it is known. Not escaped.

    A name of a field before it (`seed: …`) stays.
    """
    if is_marked(message):
        return message
    for template, pattern in _PATTERNS:
        if found := pattern.fullmatch(message):
            return t(template, **found.groupdict())
    if found := _FIELD.match(message):
        rest = message[found.end() :]
        spoken = said(rest)
        return message if spoken == rest else found[0] + spoken
    return message
