"""`modules.ui_components`: A1111's widgets, of the headless kind."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.headless_gradio import FormComponent, widget


class ToolButton(widget("Button"), FormComponent):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"value": kwargs.pop("value", args[0] if args else ""), **kwargs})


class FormRow(widget("Row"), FormComponent):  # type: ignore[misc]
    pass


class FormColumn(widget("Column"), FormComponent):  # type: ignore[misc]
    pass


class FormGroup(widget("Group"), FormComponent):  # type: ignore[misc]
    pass


class ResizeHandleRow(widget("Row")):  # type: ignore[misc]
    pass


class FormHTML(widget("HTML"), FormComponent):  # type: ignore[misc]
    pass


class FormColorPicker(widget("ColorPicker"), FormComponent):  # type: ignore[misc]
    pass


class DropdownMulti(widget("Dropdown"), FormComponent):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, multiselect=True, **kwargs)


class DropdownEditable(widget("Dropdown"), FormComponent):  # type: ignore[misc]
    pass


class InputAccordion(widget("Checkbox")):  # type: ignore[misc]
    """A foldable group whose being open is a value."""

    def __init__(self, value: bool, **kwargs: Any) -> None:
        super().__init__(value=value, **kwargs)

    def extra(self) -> Any:
        return widget("Column")(elem_id=f"{self.elem_id}-extra")
