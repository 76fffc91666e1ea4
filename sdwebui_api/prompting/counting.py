"""How long a prompt is, for whoever writes it: what A1111's page shows beside the box."""

from __future__ import annotations

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.chunks import CHUNK_LENGTH, Tokenizer, tokenize_to_chunks
from sdwebui_api.prompting.comments import strip_comments
from sdwebui_api.prompting.composition import parse_composition
from sdwebui_api.prompting.extra_networks import parse_extra_networks
from sdwebui_api.prompting.schedule import Timeline, parse_schedule

STEPS = 20
"""For `[from:to:when]`; which parts there are does not depend on it."""


def count_tokens(prompt: str, tokenizer: Tokenizer) -> tuple[int, int]:
    """(tokens, room): of the longest text that the prompt becomes in any step; room comes in chunks of 75.

    Embeddings count as their names are spelled. A prompt that cannot be used is counted as plain text.
    """
    try:
        used = max(tokenize_to_chunks(text, tokenizer)[1] for text in _texts(prompt))
    except BadRequest:
        used = len(tokenizer.tokenize(prompt))
    return used, max(1, -(-used // CHUNK_LENGTH)) * CHUNK_LENGTH


def _texts(prompt: str) -> list[str]:
    words, _ = parse_extra_networks(strip_comments(prompt))
    parts = [part.text for part in parse_composition(words)]
    return [scheduled.text for part in parts for scheduled in parse_schedule(part, Timeline(STEPS))]
