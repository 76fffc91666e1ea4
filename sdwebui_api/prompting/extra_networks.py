"""Networks named in a prompt: `<lora:name:0.8>`, `<lora:name:te=0.2:unet=1>`, `<hypernet:name>`.

Only read here; what they mean is the business of whoever applies them. As in A1111's `extra_networks.parse_prompt`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from sdwebui_api.prompting.limits import check_prompt

_TAG = re.compile(r"<(\w+):([^>]+)>")


@dataclass(frozen=True)
class ExtraNetwork:
    """One tag. `items` is everything after the kind, in order and as written."""

    kind: str
    items: tuple[str, ...]

    @cached_property
    def positional(self) -> tuple[str, ...]:
        """Items that are not exactly `name=value`; the first one is the network's name."""
        return tuple(item for item in self.items if item.count("=") != 1)

    @cached_property
    def named(self) -> dict[str, str]:
        return dict(item.split("=") for item in self.items if item.count("=") == 1)


def parse_extra_networks(prompt: str) -> tuple[str, list[ExtraNetwork]]:
    """`prompt` without its tags (white space around them stays), and the tags in their order."""
    check_prompt(prompt)
    end = prompt.rfind(">") + 1  # Nothing behind it can be a tag; searching there costs quadratic time.
    networks = [ExtraNetwork(match[1], tuple(match[2].split(":"))) for match in _TAG.finditer(prompt[:end])]
    return _TAG.sub("", prompt[:end]) + prompt[end:], networks
