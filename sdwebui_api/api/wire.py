"""Field types that read JSON as leniently as A1111's pydantic 1 did, and no further.

Numeric strings are numbers, fractions are cut off where an integer is meant, numbers are accepted for texts, and
null stands for the default. Not-a-number, infinities and broken Unicode are refused at the door: everything behind
it may rely on finite numbers and encodable text.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_PROMPT_CHARACTERS = 100_000
SYNCHRONOUS = (
    "callback_url is for queued requests (POST /api/predict/<service>/<path>); this one is answered on its connection"
)


def _cut_fraction(value: Any) -> Any:
    """2.7 -> 2, as pydantic 1's integers."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "Input should be a finite number")
        return int(value)
    return value


def _to_text(value: Any) -> Any:
    """123 -> "123", as pydantic 1's strings; refuses what UTF-8 cannot hold (lone surrogates)."""
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        _check_unicode(value)
    return value


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Input should be valid Unicode") from None


def _empty_list_to_object(value: Any) -> Any:
    """[] -> {}: pydantic 1's dicts took any list of pairs, and PHP clients send an empty object as []."""
    return {} if value == [] else value


def _sound_inside(value: Any) -> Any:
    """Refuses NaN, infinities and broken Unicode however deep they sit: scripts compute with it, answers echo it."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, int | float) and not _is_finite(item):
            raise PydanticCustomError("finite_number", "Input should hold finite numbers only")
        if isinstance(item, str):
            _check_unicode(item)
        elif isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            left += item
    return value


def _is_finite(number: float) -> bool:
    """Whole numbers that no float can hold count as infinite: whoever reads them expects a number to compute with."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


Int = Annotated[int, BeforeValidator(_cut_fraction)]
Float = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, BeforeValidator(_to_text)]
Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), BeforeValidator(_to_text)]
Name = Annotated[str, Field(max_length=1000), BeforeValidator(_to_text)]
Object = Annotated[dict[str, Any], BeforeValidator(_empty_list_to_object), BeforeValidator(_sound_inside)]
Values = Annotated[list[Any], BeforeValidator(_sound_inside)]
Seed = Annotated[Int, Field(ge=-(2**63), le=2**64 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class WireModel(BaseModel):
    """A request body. Unknown keys are ignored; null means "not given" but for the fields in `never_null`."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    never_null: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("callback_url") is not None:
            # The worker has taken it out of what comes by the queue.
            raise PydanticCustomError("callback_url", SYNCHRONOUS)
        return {key: value for key, value in values.items() if value is not None or key in cls.never_null}
