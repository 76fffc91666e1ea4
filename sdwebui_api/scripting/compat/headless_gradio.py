"""What extensions see as `gradio` while there is no page: widgets that only remember how they were made.

An extension's `ui()` builds widgets; the API needs their number, labels, defaults and choices, and nothing that is
drawn. The real gradio would answer too, but none of its versions takes the extensions' vocabulary of 2023 (3.41:
`gr.Box`, `.style()`, `Slider.update`) together with the versions of Pillow and numpy that this server runs on.
Every name exists: an unknown one becomes a widget class.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

VERSION = "3.41.2"

# How gradio 3.41 fills in a value that is not given.
_EMPTY_VALUES: dict[str, Any] = {"Checkbox": False, "Textbox": "", "TextArea": "", "Markdown": "", "HTML": ""}


class Block:
    """Anything that stands on a page. Usable as a context; every event and style method may be called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.elem_id = kwargs.get("elem_id")
        self.elem_classes = kwargs.get("elem_classes", [])
        self.visible = kwargs.get("visible", True)
        self.constructor_args = kwargs
        self.parent = None
        self.children: list[Any] = []

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Events (`change`, `click`, …), `style`, `render` and whatever else is called while a page is built."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: self

    @classmethod
    def update(cls, **values: Any) -> dict[str, Any]:
        return {"__type__": "update", **values}


class Component(Block):
    """A widget with a value: what becomes an argument of a script."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        given = dict(zip(self._positions(), args, strict=False)) | kwargs
        self.label = given.get("label")
        self.choices = _choices(given.get("choices"))
        self.minimum, self.maximum, self.step = (given.get(name) for name in ("minimum", "maximum", "step"))
        self.info = given.get("info")
        self.type = given.get("type", "value")
        self.interactive = given.get("interactive")
        self.value = self._initial(given.get("value"), given)

    @classmethod
    def _positions(cls) -> tuple[str, ...]:
        names = {base.__name__ for base in cls.__mro__}
        if "Slider" in names:
            return ("minimum", "maximum", "value")
        return ("choices", "value") if names & {"Dropdown", "Radio", "CheckboxGroup"} else ("value",)

    def _initial(self, value: Any, given: dict[str, Any]) -> Any:
        if callable(value):
            value = value()
        if value is not None:
            return value
        names = [base.__name__ for base in type(self).__mro__]
        if "Slider" in names:
            return self.minimum if self.minimum is not None else 0
        if "CheckboxGroup" in names or given.get("multiselect"):
            return []
        return next((_EMPTY_VALUES[name] for name in names if name in _EMPTY_VALUES), None)


class FormComponent:
    """A marker that extensions inherit from."""


class IOComponent(Component):
    """Gradio 3's base of all widgets."""


class Error(Exception):
    """Raised by extensions to show a message."""


def _choices(choices: Any) -> list[Any] | None:
    """Of pairs (label, value) the values."""
    if choices is None:
        return None
    return [choice[1] if isinstance(choice, (tuple, list)) and len(choice) == 2 else choice for choice in choices]


def _update(**values: Any) -> dict[str, Any]:
    return {"__type__": "update", **values}


def _tell(*_args: Any, **_kwargs: Any) -> None:
    """`gr.Info`, `gr.Warning`: there is nobody to tell."""


_LAYOUT = frozenset(
    ("Accordion", "Blocks", "Box", "Column", "Form", "Group", "Interface", "Row", "Tab", "TabItem", "TabbedInterface",
     "Tabs")
)  # fmt: skip


class HeadlessGradio(ModuleType):
    """The module `gradio` and its submodules; they share one set of classes."""

    def __init__(self, name: str, shared: dict[str, Any]) -> None:
        super().__init__(name, __doc__)
        self.__dict__["_shared"] = shared
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        shared = self.__dict__["_shared"]
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in shared:
            base: tuple[type, ...] = (Block,) if name in _LAYOUT else (IOComponent, FormComponent)
            shared[name] = type(name, base, {"__module__": "gradio"}) if name[0].isupper() else Block()
        return shared[name]


def _vocabulary() -> dict[str, Any]:
    shared: dict[str, Any] = {
        "Block": Block, "Component": Component, "IOComponent": IOComponent, "FormComponent": FormComponent,
        "Error": Error, "Info": _tell, "Warning": _tell, "update": _update, "skip": _update,
        "SelectData": object, "EventData": object, "Request": object, "Progress": Block, "JSONSerializable": object,
    }  # fmt: skip
    return shared


SUBMODULES = (
    "blocks", "components", "context", "events", "exceptions", "external", "helpers", "layouts", "processing_utils",
    "routes", "templates", "themes", "utils",
)  # fmt: skip


_SHARED = _vocabulary()
"""Every class by name: one set per process, so that `isinstance` holds across extensions."""


def widget(name: str) -> Any:
    """The class of that name."""
    return getattr(HeadlessGradio("gradio", _SHARED), name)


def make_modules() -> dict[str, ModuleType]:
    """`gradio` and its submodules by name."""
    shared = _SHARED
    modules: dict[str, ModuleType] = {"gradio": HeadlessGradio("gradio", shared)}
    modules["gradio"].__dict__["__version__"] = VERSION
    for name in SUBMODULES:
        modules[f"gradio.{name}"] = modules["gradio"].__dict__[name] = HeadlessGradio(f"gradio.{name}", shared)
    return modules


@contextlib.contextmanager
def as_gradio(modules: dict[str, ModuleType]) -> Iterator[None]:
    """`import gradio` finds these modules; afterwards whatever was there before."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "gradio"}
    for name in before:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)
