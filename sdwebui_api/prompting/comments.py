"""Comments in prompts, from `#` to the end of the line (option `enable_prompt_comments`).

As A1111's built-in script "Comments" does it: infotext, too, shows the prompt without them.
"""

from __future__ import annotations

import re

_WHOLE_LINE = re.compile(r"(?:^|\n)#[^\n]*(?:\n|$)")
_REST_OF_LINE = re.compile(r"#[^\n]*(?:\n|$)")


def strip_comments(prompt: str) -> str:
    """`prompt` without comments. A line that is a comment, and the rest of one that ends in it, leave a line break."""
    return _REST_OF_LINE.sub("\n", _WHOLE_LINE.sub("\n", prompt))
