"""How much prompt a request may carry, so that one request can neither hang nor exhaust the server."""

from __future__ import annotations

from sdwebui_api.errors import BadRequest

MAX_PROMPT_LENGTH = 100_000
"""Characters. About 25,000 tokens: hundreds of times what a picture can show."""

MAX_NESTING = 200
"""Brackets open at the same place. 1.1 ** 200 is already far outside of what a text encoder's output bears."""

MAX_SCHEDULE_LENGTH = 20_000_000
"""Characters of all the texts that one prompt's editing and alternation unfold to."""

MAX_CHUNKS = 2048
"""Rows of 77 tokens that the prompts of one batch may come to, all images and moments counted. 0.5 GB for SD1."""


def check_chunks(count: int, field: str = "prompt") -> None:
    """Raise BadRequest naming `field` when `count` chunks are more than one batch may have."""
    if count > MAX_CHUNKS:
        raise BadRequest(
            f"The prompts of one batch come to {count} chunks of 75 tokens, more than {MAX_CHUNKS}", field=field
        )


def check_prompt(text: str, field: str = "prompt") -> None:
    """Raise BadRequest naming `field` when `text` is longer than any prompt can be."""
    if len(text) > MAX_PROMPT_LENGTH:
        raise BadRequest(f"The prompt has {len(text)} characters, more than {MAX_PROMPT_LENGTH}", field=field)


def check_nesting(depth: int, field: str = "prompt") -> None:
    """Raise BadRequest naming `field` when `depth` brackets are open at once."""
    if depth > MAX_NESTING:
        raise BadRequest(f"More than {MAX_NESTING} brackets are open at the same place in the prompt", field=field)
