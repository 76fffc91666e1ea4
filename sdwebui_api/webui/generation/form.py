"""One generation tab's components on their way to the body of a request, whoever put them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gradio.blocks import Block
from gradio.components import Component

from sdwebui_api.api.generation_call import Kind
from sdwebui_api.webui.context import Choices, PageBuilder

C = TypeVar("C", bound=Component)
Body = dict[str, Any]
Contribution = Callable[..., None]
"""`(body, *values)`: writes into the body what the components' values mean."""


@dataclass
class Form:
    """Filled while the tab is built; afterwards only read."""

    page: PageBuilder
    kind: Kind
    fields: dict[str, Component] = field(default_factory=dict)
    """Field of the API's body → the component whose value it is."""
    contributions: list[tuple[Sequence[Component], Contribution]] = field(default_factory=list)
    kept: dict[str, Component] = field(default_factory=dict)
    """Key in ui-config.json → component: what a browser remembers over reloads."""

    def id(self, name: str) -> str:
        """`txt2img_<name>`."""
        return f"{self.kind}_{name}"

    def add(
        self,
        component: C,
        *,
        label: str | None = None,
        infotext: str | None = None,
        choices: Choices | None = None,
        key: str | None = None,
    ) -> C:
        """A component that is no field by itself; `contribute` says what it does. As `field` otherwise.

        key: its whole name in ui-config.json, where that is not made of tab and label.
        """
        key = key or (f"{self.kind}/{label}" if label else None)
        self.page.add(component, saved=key, infotext=(self.kind, infotext) if infotext else None, choices=choices)
        if key is not None:
            self.kept[key] = component
        return component

    def field(
        self,
        name: str,
        component: C,
        *,
        label: str | None = None,
        infotext: str | None = None,
        choices: Choices | None = None,
    ) -> C:
        """The component's value is the body's `name`.

        label: A1111's name of it in ui-config.json; None: not kept there, and forgotten when the page is reloaded.
        infotext: its name in a picture's parameters ("CFG scale"). choices: where a drop-down's choices come from.
        """
        self.fields[name] = component
        return self.add(component, label=label, infotext=infotext, choices=choices)

    def contribute(self, inputs: Sequence[Component], write: Contribution) -> None:
        """`write(body, *values of inputs)` is called for every request, in the order of these calls, after `field`s."""
        self.contributions.append((tuple(inputs), write))

    @property
    def inputs(self) -> set[Block]:
        """What a handler that calls `body` needs; it gets one dictionary, component → value."""
        return {*self.fields.values(), *(one for inputs, _ in self.contributions for one in inputs)}

    def body(self, values: Mapping[Component, Any]) -> Body:
        """The body of POST /sdapi/v1/<kind>. Raises what contributions raise (BadRequest)."""
        body: Body = {name: values[component] for name, component in self.fields.items()}
        body["save_images"] = True  # the option `samples_save` decides
        for inputs, write in self.contributions:
            write(body, *(values[component] for component in inputs))
        return {name: value for name, value in body.items() if value is not None}
