"""The pattern language of file and folder names: `[seed]-[prompt_words]`, `[datetime<%Y-%m>]`, ….

Tokens and their values follow A1111 `modules/images.py` (FilenameGenerator). Unknown tokens stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from zoneinfo import ZoneInfo

from PIL import Image

log = logging.getLogger(__name__)

LONGEST_PART = 128
DEFAULT_TIME_FORMAT = "%Y%m%d%H%M%S"

_TOKEN = re.compile(r"\[([^\[\]]+)\]")
_ARGUMENTS = re.compile(r"<([^<>]*)>")
_NOT_IN_NAMES = str.maketrans(dict.fromkeys('#<>:"/\\|?*\n\r\t', "_"))
_NOT_IN_WORDS = re.compile(rf"[\s{re.escape(string.punctuation)}]+")
# Only plain directives: widths such as %1000000000d would make the C library fill memory.
_TIME_FORMAT = re.compile(r"(?:[^%]|%[-_^#]?[A-Za-z%])*")


@dataclass(frozen=True)
class NamingFacts:
    """What the names of one picture may mention. `index` counts the pictures of the request from 0."""

    prompt: str = ""
    negative_prompt: str = ""
    prompt_without_styles: str = ""
    styles: tuple[str, ...] = ()
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    """Of all pictures of the request."""
    steps: int = 0
    cfg_scale: float = 0
    sampler: str = ""
    schedule: str = ""
    model_hash: str = ""
    model_name: str = ""
    vae_name: str | None = None
    denoising_strength: float | None = None
    clip_skip: int = 1
    user: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    batch_index: int = 0
    iteration: int = 0
    job_timestamp: str = ""
    now: datetime = field(default_factory=datetime.now)
    prompt_words: int = 8
    """Option `directories_max_prompt_words`."""


def apply_pattern(pattern: str, facts: NamingFacts, image: Image.Image) -> str:
    """`pattern` with its tokens replaced.

    A token that means nothing for this picture (`[batch_number]` of a single one) takes the text before it,
    up to the previous token, along. The result may hold path separators only where `pattern` has them.
    """
    result = ""
    end = 0
    for match in _TOKEN.finditer(pattern):
        text = pattern[end : match.start()]
        end = match.end()
        value = _token_value(match[1], facts, image)
        if value is not None:
            result += text + value
    return result + pattern[end:]


def sanitize_part(text: str, replace_spaces: bool = True) -> str:
    """`text` as a part of a file name: no separators or reserved characters, at most 128 characters."""
    if replace_spaces:
        text = text.replace(" ", "_")
    return text.translate(_NOT_IN_NAMES).lstrip(" ")[:LONGEST_PART].rstrip(" .")


def _token_value(token: str, facts: NamingFacts, image: Image.Image) -> str | None:
    name = token.partition("<")[0].lower()
    arguments = tuple(_ARGUMENTS.findall(token))
    if name == "image_hash":
        return _hash_of(image.tobytes(), arguments, 64)
    if name in ("width", "height"):
        return str(getattr(image, name))
    make = _TOKENS.get(name)
    return f"[{token}]" if make is None else make(facts, arguments)


def _hash_of(data: bytes, arguments: tuple[str, ...], length: int) -> str:
    if arguments and arguments[0].isdecimal():
        length = int(arguments[0][:4])
    return hashlib.sha256(data).hexdigest()[:length]


def _datetime(facts: NamingFacts, arguments: tuple[str, ...]) -> str:
    """`[datetime<format><time zone>]`; wrong formats and zones fall back to the default and the local one."""
    when = facts.now
    if len(arguments) > 1:
        try:
            when = when.astimezone(ZoneInfo(arguments[1]))
        except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError or OSError by system
            log.warning("file name pattern: unknown time zone %r: %s", arguments[1], error)
        except KeyError:
            log.warning("file name pattern: unknown time zone %r", arguments[1])
    format_ = arguments[0] if arguments and arguments[0] and _TIME_FORMAT.fullmatch(arguments[0]) else ""
    return sanitize_part(when.strftime(format_ or DEFAULT_TIME_FORMAT), replace_spaces=False)


def _has_prompt(facts: NamingFacts, arguments: tuple[str, ...]) -> str:
    """`[hasprompt<word|otherwise><word>]`: each word the prompt contains, else what stands after its bar."""
    prompt = facts.prompt.lower()
    result = ""
    for argument in filter(None, arguments):
        expected, _, otherwise = argument.partition("|")
        result += expected.lower() if expected.lower() in prompt else otherwise.partition("|")[0]
    return sanitize_part(result)


def _prompt_words(facts: NamingFacts, arguments: tuple[str, ...]) -> str:
    words = [word for word in _NOT_IN_WORDS.split(facts.prompt) if word] or ["empty"]
    return sanitize_part(" ".join(words[: facts.prompt_words]), replace_spaces=False)


def _vae_filename(facts: NamingFacts) -> str:
    parts = (facts.vae_name or "NoneType").split(".")
    return sanitize_part(parts[1] if len(parts) > 1 and not parts[0] else parts[0], replace_spaces=False)


def _sampler_and_schedule(facts: NamingFacts) -> str:
    schedule = "" if facts.schedule in ("", "Automatic") else f" {facts.schedule}"
    return sanitize_part(facts.sampler + schedule, replace_spaces=False)


def _batch_number(facts: NamingFacts) -> str | None:
    return None if facts.batch_size == 1 else str(facts.batch_index + 1)


def _generation_number(facts: NamingFacts) -> str | None:
    single = facts.n_iter == 1 and facts.batch_size == 1
    return None if single else str(facts.iteration * facts.batch_size + facts.batch_index + 1)


def _seed_first(facts: NamingFacts) -> str:
    first = facts.seeds[0] if facts.batch_size > 1 and facts.seeds else facts.seed
    return "" if first is None else str(first)


def _seed_last(facts: NamingFacts) -> str | None:
    return str(facts.seeds[-1]) if facts.batch_size > 1 and facts.seeds else None


def _plain(make: Callable[[NamingFacts], str | None]) -> Callable[[NamingFacts, tuple[str, ...]], str | None]:
    return lambda facts, arguments: make(facts)


_TOKENS: Mapping[str, Callable[[NamingFacts, tuple[str, ...]], str | None]] = MappingProxyType(
    {
        "seed": _plain(lambda f: "" if f.seed is None else str(f.seed)),
        "seed_first": _plain(_seed_first),
        "seed_last": _plain(_seed_last),
        "steps": _plain(lambda f: str(f.steps)),
        "cfg": _plain(lambda f: str(f.cfg_scale)),
        "styles": _plain(lambda f: sanitize_part(", ".join(s for s in f.styles if s != "None") or "None", False)),
        "sampler": _plain(lambda f: sanitize_part(f.sampler, False)),
        "sampler_scheduler": _plain(_sampler_and_schedule),
        "scheduler": _plain(lambda f: sanitize_part(f.schedule, False)),
        "model_hash": _plain(lambda f: sanitize_part(f.model_hash, False)),
        "model_name": _plain(lambda f: sanitize_part(f.model_name, False)),
        "date": _plain(lambda f: f.now.strftime("%Y-%m-%d")),
        "datetime": _datetime,
        "job_timestamp": _plain(lambda f: sanitize_part(f.job_timestamp)),
        "prompt_hash": lambda f, arguments: _hash_of(_bytes(f.prompt), arguments, 8),
        "negative_prompt_hash": lambda f, arguments: _hash_of(_bytes(f.negative_prompt), arguments, 8),
        "full_prompt_hash": lambda f, arguments: _hash_of(_bytes(f"{f.prompt} {f.negative_prompt}"), arguments, 8),
        "prompt": _plain(lambda f: sanitize_part(f.prompt)),
        "prompt_no_styles": _plain(lambda f: sanitize_part(f.prompt_without_styles or f.prompt, False)),
        "prompt_spaces": _plain(lambda f: sanitize_part(f.prompt, False)),
        "prompt_words": _prompt_words,
        "batch_number": _plain(_batch_number),
        "batch_size": _plain(lambda f: str(f.batch_size)),
        "generation_number": _plain(_generation_number),
        "hasprompt": _has_prompt,
        "clip_skip": _plain(lambda f: str(f.clip_skip)),
        "denoising": _plain(lambda f: str(f.denoising_strength) if f.denoising_strength else None),
        "user": _plain(lambda f: sanitize_part(f.user or "None", False)),
        "vae_filename": _plain(_vae_filename),
        "none": _plain(lambda f: ""),
    }
)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
