"""`modules.options`: settings as extensions declare and read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sdwebui_api.scripting.compat.world import current_options, view, world


class OptionInfo:
    """A setting that an extension declares."""

    def __init__(
        self,
        default: Any = None,
        label: str = "",
        component: Any = None,
        component_args: Any = None,
        onchange: Callable[..., Any] | None = None,
        section: Any = None,
        refresh: Any = None,
        comment_before: str = "",
        comment_after: str = "",
        infotext: str | None = None,
        restrict_api: bool = False,
        category_id: str | None = None,
    ) -> None:
        self.default, self.label, self.component, self.component_args = default, label, component, component_args
        self.onchange, self.section, self.refresh = onchange, section, refresh
        self.comment_before, self.comment_after, self.infotext = comment_before, comment_after, infotext
        self.restrict_api, self.category_id, self.do_not_save = restrict_api, category_id, False

    def link(self, label: str, url: str) -> OptionInfo:
        return self

    def js(self, label: str, js_func: str) -> OptionInfo:
        return self

    def info(self, info: str) -> OptionInfo:
        self.comment_after += f" ({info})"
        return self

    def html(self, html: str) -> OptionInfo:
        return self

    def needs_restart(self) -> OptionInfo:
        return self

    def needs_reload_ui(self) -> OptionInfo:
        return self


class OptionHTML(OptionInfo):
    """Text between settings."""

    def __init__(self, text: str) -> None:
        super().__init__(str(text).strip(), label="")
        self.do_not_save = True


class OptionDiv(OptionHTML):
    def __init__(self) -> None:
        super().__init__("")


def options_section(section_identifier: tuple[Any, ...], options_dict: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    for info in options_dict.values():
        info.section = section_identifier[:2]
    return options_dict


class _Data(Mapping[str, Any]):
    """`opts.data`: a view of the settings; assigning is setting."""

    def __getitem__(self, name: str) -> Any:
        options = current_options()
        return _plain(options[name]) if name in options else _attributes(name)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(current_options())

    def __len__(self) -> int:
        return len(current_options())

    def __setitem__(self, name: str, value: Any) -> None:
        set_option(name, value)


class Opts:
    """`shared.opts`. Inside a job: the request's settings, and what is set counts for that request alone."""

    data_labels: dict[str, Any]

    def __init__(self) -> None:
        self.__dict__["data"] = _Data()
        self.__dict__["typemap"] = {int: float}

    def __getattr__(self, name: str) -> Any:
        if name == "data_labels":
            return world().option_infos
        options = current_options()
        if name in options:
            return _plain(options[name])
        kept = _attributes(name)
        if name in kept:
            return kept[name]
        raise AttributeError(f"there is no setting {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        set_option(name, value)

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        before = current_options().get(key)
        set_option(key, value)
        return bool(before != value)

    def get_default(self, key: str) -> Any:
        spec = current_options().table.get(key)
        return spec.default if spec else None

    def add_option(self, key: str, info: OptionInfo) -> None:
        if not isinstance(info, OptionHTML):
            world().add_option(key, info)

    def onchange(self, key: str, func: Callable[..., Any], call: bool = True) -> None:
        """Remembered with the setting; settings change through the API, which calls nothing."""
        if key in world().option_infos:
            world().option_infos[key].onchange = func
        if call:
            func()

    def save(self, filename: str) -> None:
        """Outside of jobs settings are saved as they are set."""

    def load(self, filename: str) -> None:
        """They are read when the server starts."""

    def reorder(self) -> None:
        return

    def dumpjson(self) -> str:
        import json

        return json.dumps(current_options().as_dict())

    def same_type(self, x: Any, y: Any) -> bool:
        return x is None or y is None or type(x) is type(y)


def _attributes(name: str) -> dict[str, Any]:
    """What scripts keep on `opts` that is no setting: the running job's where it has `name`, else everybody's."""
    found = view()
    return found.opts_attributes if found is not None and name in found.opts_attributes else world().opts_attributes


def set_option(name: str, value: Any) -> None:
    """For the running job alone; outside of jobs for good. What is no setting stays when the job ends."""
    options = current_options()
    spec = options.table.get(name)
    found = view()
    if spec is None:
        (world() if found is None else found).opts_attributes[name] = value
        return
    coerced = spec.coerce(value, f"opts.{name}")
    if found is not None:
        found.set_options({name: coerced})
    else:
        world().store.update({name: value})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
