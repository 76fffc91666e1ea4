"""What a script can be asked: its arguments declared once, read from the wire by position or by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdwebui_api.errors import BadRequest


@dataclass(frozen=True)
class Listed:
    """Of an argument whose choices follow from another's value; `Script.listed` says which they are.

    Names of arguments: `of`, whose value is asked; `instead_of`, the text that says the same where there are no
    choices; `unless`, the switch that wants the text all the same.
    """

    of: str
    instead_of: str
    unless: str = ""


@dataclass(frozen=True)
class Argument:
    """One argument, in the order of the wire's `args`. GET /script-info shows everything but `name`.

    Without `choices` a default of bool, int, float or str also says which type the wire must bring (None: any).
    """

    name: str
    default: Any = None
    label: str = ""
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    typed: bool = True
    """False: values pass as they come (scripts of A1111 check them themselves)."""
    listed: Listed | None = None
    """The page shows several of these choices to choose from; the wire's value is a list of them, or None."""

    def row(self) -> dict[str, Any]:
        """As GET /script-info answers it."""
        return {
            "label": self.label,
            "value": list(self.default) if isinstance(self.default, tuple) else self.default,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "step": self.step,
            "choices": list(self.choices) if self.choices is not None else None,
        }


class Arguments(Mapping[str, Any]):
    """The values of one call, every declared argument present: `args.loops`, `args["loops"]`. Never changes."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no argument {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Arguments({self._values})"

    def positional(self) -> tuple[Any, ...]:
        """In the order in which the script declared them."""
        return tuple(self._values.values())


def read_arguments(declared: Sequence[Argument], given: object, field: str) -> Arguments:
    """`given` as the wire has it: None, a list (filled with defaults when short, cut when long), an object by name.

    Where the wire wants a list, the object may stand in one of its own. Names are those of the declaration, or the
    labels; letter case does not matter. Numbers that JSON wrote in the other form are taken over (`2.0` for an int,
    `2` for a float). Raises BadRequest (422) naming `field[index]`.
    """
    values = {argument.name: argument.default for argument in declared}
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], Mapping):
        given = given[0]
    if isinstance(given, Mapping):
        for key, value in given.items():
            argument = _find(declared, str(key), field)
            values[argument.name] = _coerced(argument, value, f"{field}.{key}")
    elif isinstance(given, (list, tuple)):
        for index, (argument, value) in enumerate(zip(declared, given, strict=False)):
            values[argument.name] = _coerced(argument, value, f"{field}[{index}]")
    elif given is not None:
        raise BadRequest("The arguments are a list, or an object by name", field=field)
    return Arguments(values)


def _find(declared: Sequence[Argument], key: str, field: str) -> Argument:
    wanted = key.strip().lower()
    for text in ("name", "label"):
        for argument in declared:
            if getattr(argument, text).lower() == wanted:
                return argument
    raise BadRequest(f"No argument {key[:100]!r}", field=field, choices=[argument.name for argument in declared])


def _coerced(argument: Argument, value: Any, field: str) -> Any:
    """The value in the type of the default. A list passes as it is: scripts that take one say so."""
    default = argument.default
    if not argument.typed:
        return value
    if value is None:
        return default
    if isinstance(default, bool):
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise BadRequest("Expected true or false", field=field)
    if isinstance(default, float) and not isinstance(value, bool) and isinstance(value, (int, float)):
        return float(value)
    if isinstance(default, int) and not isinstance(value, bool) and isinstance(value, (int, float)):
        return int(value) if float(value).is_integer() else value
    if isinstance(default, (int, float)):
        raise BadRequest("Expected a number", field=field)
    if isinstance(default, str) and argument.choices is None and not isinstance(value, str):
        raise BadRequest("Expected a text", field=field)
    return value


class UnknownScript(BadRequest):
    """Answered with a plain text as `detail`, in A1111's wording, which clients look for."""


def unknown_script(name: str, field: str, choices: Sequence[str]) -> UnknownScript:
    return UnknownScript(f"Script '{name[:200]}' not found", field=field, choices=choices)
