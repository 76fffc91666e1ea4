"""The query string of a queue's clients: reserved names begin with `_`, every other one is a tag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from sdwebui_api.errors import BadRequest

MAX_PARAMETERS = 1000
MAX_TAGS = 150
"""Of an item, and of a filter. Below what the stores take: results and dead letters carry these and a few more."""
MAX_INDEXES = 10_000
LARGEST_INDEX = 2**63 - 1
"""In the stores. Clients hold indexes in 64 bits without a sign; what is above this one is read as this one."""
LARGEST_SENT = 2**64 - 1
MAX_SECONDS = 3600.0
TRUE, FALSE = ("true", "1"), ("false", "0")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_PLAIN_SECONDS = re.compile(r"[+-]?(?:\d{1,18}\.?\d*|\.\d+)", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Query:
    """Of one request. Every reader raises BadRequest (400) with the parameter's name."""

    reserved: Mapping[str, str]
    tags: Mapping[str, str]

    @classmethod
    def parse(cls, query_string: bytes) -> Query:
        """Percent-encoded UTF-8; of a name given twice the last value counts. Unknown reserved names stay unread."""
        try:
            pairs = parse_qsl(
                query_string.decode("latin-1"), keep_blank_values=True, errors="replace", max_num_fields=MAX_PARAMETERS
            )
        except ValueError:
            raise BadRequest(f"The query holds more than {MAX_PARAMETERS} parameters") from None
        named = dict(pairs)
        reserved = {name: value for name, value in named.items() if name.startswith("_")}
        tags = {name: value for name, value in named.items() if name and not name.startswith("_")}
        if len(tags) > MAX_TAGS:
            raise BadRequest(f"{MAX_TAGS} tags (query parameters) are possible, these are {len(tags)}")
        return cls(reserved, tags)

    def flag(self, name: str, default: bool = False) -> bool:
        given = self.reserved.get(name)
        if given is None:
            return default
        if given.lower() in TRUE:
            return True
        if given.lower() in FALSE:
            return False
        raise BadRequest(f"{name}={given[:40]!r} is neither true nor false")

    def whole(self, name: str, default: int, *, least: int) -> int:
        given = self.reserved.get(name)
        return default if given is None else _whole(name, given, least)

    def seconds(self, name: str, default: float = 0.0) -> float:
        """A Go duration (`1m30s`, `500ms`), or a bare number of seconds; at least 0, at most an hour."""
        given = self.reserved.get(name)
        if given is None:
            return default
        if _PLAIN_SECONDS.fullmatch(given):
            value = float(given)
        elif _DURATION.fullmatch(given):
            value = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(given))
            value = -value if given.startswith("-") else value
        else:
            raise BadRequest(f"{name}={given[:40]!r} is no duration such as 5s, 500ms or 1m30s")
        return min(max(value, 0.0), MAX_SECONDS)

    def indexes(self) -> list[int]:
        """Of `_indexes_`."""
        name = "_indexes_"
        parts = [part.strip() for part in self.reserved.get(name, "").split(",") if part.strip()]
        if not parts:
            raise BadRequest(f"{name} is missing: a list of numbers such as 4,5")
        if len(parts) > MAX_INDEXES:
            raise BadRequest(f"{name} names more than {MAX_INDEXES} items")
        return [_whole(name, part, 0) for part in parts]


def _whole(name: str, text: str, least: int) -> int:
    value = int(text) if _WHOLE.fullmatch(text) else None
    if value is None or not least <= value <= LARGEST_SENT:
        raise BadRequest(f"{name}={text[:40]!r} is not a whole number from {least} on")
    return min(value, LARGEST_INDEX)
