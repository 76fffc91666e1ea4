"""What an axis of a plot is, and the ways in which one changes a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sdwebui_api.config.options import coerce_values
from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.scripting.hooks import Files, Kind, SamplerNames
from sdwebui_api.scripting.xyz.values import ValueKind


class Names(Protocol):
    """Where axes look up what values name; a `ScriptContext` fits."""

    @property
    def files(self) -> Files: ...

    @property
    def sampler_names(self) -> SamplerNames: ...

    @property
    def upscaler_names(self) -> Sequence[str]: ...


Apply = Callable[[GenerationRequest, Any, Sequence[Any], Names], GenerationRequest]
"""(request, value, all values of the axis, names) -> changed request. Raises BadRequest or NotFound."""


def label_and_value(label: str, value: Any) -> str:
    return f"{label}: {plain_value(label, value)}"


def plain_value(_label: str, value: Any) -> str:
    return str(round(value, 8) if isinstance(value, float) else value)


def joined_values(_label: str, value: Sequence[str]) -> str:
    return ", ".join(value)


def file_name(_label: str, value: str) -> str:
    return value.replace("\\", "/").rsplit("/", 1)[-1]


def no_text(_label: str, _value: Any) -> str:
    return ""


@dataclass(frozen=True)
class Axis:
    """One thing that a plot can vary.

    cost: how dear a change is, from 0 to 1; the dearest axis changes least often. choices: the values that the page
    offers, where they are a list; then the wire's values come as a list too, unless in csv mode.
    """

    label: str
    kind: ValueKind
    apply: Apply
    format: Callable[[str, Any], str] = label_and_value
    only: Kind | None = None
    cost: float = 0.0
    choices: Callable[[Files], Sequence[str]] | None = None
    limits: tuple[float, float] | None = None
    """Both ends belong to it; as narrow as the field of the request that the axis sets."""

    def text(self, value: Any) -> str:
        """What the legend says of `value`."""
        return self.format(self.label, value)


# -- the ways in which axes change requests ----------------------------------------------------------------------------


def unchanged(request: GenerationRequest, _value: Any, _values: Sequence[Any], _names: Names) -> GenerationRequest:
    return request


def field(name: str) -> Apply:
    """Sets a field of the request."""

    def apply(request: GenerationRequest, value: Any, _values: Sequence[Any], _names: Names) -> GenerationRequest:
        return replace(request, **{name: value})

    return apply


def hires_field(name: str) -> Apply:
    """Sets a field of the hires pass; without such a pass nothing changes."""

    def apply(request: GenerationRequest, value: Any, _values: Sequence[Any], _names: Names) -> GenerationRequest:
        return with_hires(request, **{name: value})

    return apply


def init_field(name: str) -> Apply:
    """Sets a field of img2img's start; without one nothing changes."""

    def apply(request: GenerationRequest, value: Any, _values: Sequence[Any], _names: Names) -> GenerationRequest:
        return replace(request, init=replace(request.init, **{name: value})) if request.init else request

    return apply


def option(name: str) -> Apply:
    """Sets an option for this request."""

    def apply(request: GenerationRequest, value: Any, _values: Sequence[Any], _names: Names) -> GenerationRequest:
        return with_options(request, {name: value})

    return apply


def switch(name: str) -> Apply:
    """Sets an option that is on or off: "true" in any letter case is on."""

    def apply(request: GenerationRequest, value: Any, _values: Sequence[Any], _names: Names) -> GenerationRequest:
        return with_options(request, {name: value.strip().lower() == "true"})

    return apply


def with_hires(request: GenerationRequest, **values: Any) -> GenerationRequest:
    return replace(request, hires=replace(request.hires, **values)) if request.hires else request


def with_options(request: GenerationRequest, values: dict[str, Any]) -> GenerationRequest:
    """`request` under other settings. Raises BadRequest when a value is of the wrong type."""
    coerced, _ = coerce_values(values, "script_args")
    return replace(
        request,
        options=request.options.with_values(coerced),
        override_settings={**request.override_settings, **coerced},
    )
