"""The settings as a form of plain HTML: three hundred of gradio's components would be slow to open.

`assets/settings.js` filters it and collects what was changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Any

from sdwebui_api.config.option_sections import SECTIONS, WITHOUT_EFFECT, Section
from sdwebui_api.config.option_table import OptionSpec
from sdwebui_api.config.options import Options
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.settings.labels import LABELS

CATEGORIES = {
    "saving": t("Saving images"),
    "sd": t("Stable Diffusion"),
    "ui": t("User interface"),
    "postprocessing": t("Postprocessing"),
    "training": t("Training"),
    "system": t("System"),
    "extensions": t("Extensions"),
}
ELSEWHERE = ("disabled_extensions", "disable_all_extensions", "restore_config_state_file", "sd_checkpoint_hash")
"""Settings with a place of their own on the page, or none."""
_PENDING = (
    f'<div class="settings-pending" hidden><span>{escape(t("Changed settings:"))} <b></b></span>'
    f'<button type="button">{escape(t("Apply settings"))}</button></div>'
)
_FULL_COLOR = re.compile(r"#[0-9a-fA-F]{6}")

Choices = Mapping[str, Sequence[tuple[str, str]]]
"""Setting → (shown, value), where the choice is among files or names of this server."""


@dataclass(frozen=True)
class Form:
    """locked: settings that cannot be changed; hidden: settings that are not shown; refused: those whose new value the
    server did not take, and the browser still has."""

    options: Options
    choices: Choices = field(default_factory=dict)
    locked: Collection[str] = ()
    hidden: Collection[str] = ()
    refused: Collection[str] = ()
    notice: str = ""

    def html(self) -> str:
        sections = self._sections()
        return (
            f'<div class="settings-form">{self._bar()}<div class="settings-body">'
            f'<nav class="settings-nav">{self._navigation(sections)}</nav>'
            f'<div class="settings-sections">{"".join(map(self._section, sections))}'
            f'<p class="settings-nothing">{escape(t("No setting matches."))}</p></div></div>{_PENDING}</div>'
        )

    def _sections(self) -> list[Section]:
        """Those of the table, and one for settings that extensions brought."""
        table, named = self.options.table, {name for section in SECTIONS for name in section.names}
        shown = [
            Section(section.id, section.label, section.category, self._shown(section.names, table))
            for section in SECTIONS
        ]
        others = self._shown(sorted(table.keys() - named), table)
        shown.append(Section("extensions", "Settings of extensions", "extensions", others))
        order = list(CATEGORIES)
        return sorted((one for one in shown if one.names), key=lambda section: order.index(section.category))

    def _shown(self, names: Iterable[str], table: Mapping[str, OptionSpec]) -> tuple[str, ...]:
        return tuple(name for name in names if name in table and name not in self.hidden and name not in ELSEWHERE)

    def _bar(self) -> str:
        notice = f'<p class="settings-notice">{escape(self.notice)}</p>' if self.notice else ""
        return (
            f'{notice}<div class="settings-bar"><input type="search" id="settings_search" autocomplete="off"'
            f' placeholder="{escape(t("Search settings"))}" aria-label="{escape(t("Search settings"))}">'
            f'<label><input type="checkbox" id="settings_show_idle"> {escape(t("Also those without effect here"))}'
            "</label></div>"
        )

    def _navigation(self, sections: Sequence[Section]) -> str:
        groups = []
        for category, members in groupby(sections, lambda section: section.category):
            buttons = "".join(
                f'<button type="button" data-section="{escape(one.id)}"{_idle(one)}>{escape(t(one.label))}</button>'
                for one in members
            )
            groups.append(f"<div><b>{escape(CATEGORIES[category])}</b>{buttons}</div>")
        return "".join(groups)

    def _section(self, section: Section) -> str:
        rows = "".join(self._row(name) for name in section.names)
        return (
            f'<section data-section="{escape(section.id)}"{_idle(section)}><h3>{escape(t(section.label))}</h3>'
            f"{rows}</section>"
        )

    def _row(self, name: str) -> str:
        spec, value = self.options.table[name], self.options[name]
        locked = name in self.locked or not spec.settable
        idle = name in WITHOUT_EFFECT
        note = escape(t("kept for other programs, without effect here")) if idle else ""
        return (
            f'<div class="setting{" idle" if idle else ""}" data-name="{escape(name)}" id="setting_{escape(name)}"'
            f"{' data-refused' if name in self.refused else ''}>"
            f'<label for="input_{escape(name)}">{escape(t(LABELS.get(name, name)))}</label>'
            f"{control(name, spec, value, self.choices.get(name), locked=locked)}"
            f"<small>{escape(name)}{' · ' + note if note else ''}</small></div>"
        )


def _idle(section: Section) -> str:
    return ' class="idle"' if WITHOUT_EFFECT.issuperset(section.names) else ""


def control(
    name: str, spec: OptionSpec, value: Any, choices: Sequence[tuple[str, str]] | None = None, *, locked: bool = False
) -> str:
    """The input of one setting. `data-kind` says how its value is read back."""
    start = f'id="input_{escape(name)}"{" disabled" if locked else ""}'
    if spec.kind == "switch":
        return f'<input type="checkbox" data-kind="switch" {start}{" checked" if value else ""}>'
    if spec.kind in ("whole", "real"):
        return _number(start, spec, value)
    if spec.kind == "color" and _FULL_COLOR.fullmatch(str(value)):
        return f'<input type="color" data-kind="text" {start} value="{escape(str(value))}">'
    if spec.kind == "one_of":
        return _select(start, [(t(choice), choice) for choice in spec.choices], value)
    if spec.kind == "names":
        return _names(start, value, choices)
    if spec.kind == "any":
        text = escape(json.dumps(value, ensure_ascii=False))
        return f'<textarea data-kind="json" rows="2" {start}>{text}</textarea>'
    if choices is not None:
        return _select(start, choices, value)
    return f'<input type="text" data-kind="text" {start} value="{escape(str(value or ""))}">'


def _number(start: str, spec: OptionSpec, value: Any) -> str:
    limits = "".join(
        f' {attribute}="{limit:g}"'
        for attribute, limit in (("min", spec.minimum), ("max", spec.maximum))
        if limit is not None and abs(limit) < 1e6
    )
    step = "1" if spec.kind == "whole" else "any"
    return f'<input type="number" data-kind="number" step="{step}"{limits} {start} value="{value}">'


def _select(start: str, choices: Sequence[tuple[str, str]], value: Any) -> str:
    """A value that is no choice (a file that is gone) stays selected until another is chosen."""
    held = str(value or "")
    rows = list(choices)
    if all(held != choice for _, choice in rows):
        rows.insert(0, (held, held))
    inner = "".join(
        f'<option value="{escape(choice)}"{" selected" if choice == held else ""}>{escape(shown)}</option>'
        for shown, choice in rows
    )
    return f'<select data-kind="text" {start}>{inner}</select>'


def _names(start: str, value: Sequence[str], choices: Sequence[tuple[str, str]] | None) -> str:
    if choices is None:
        text = escape("\n".join(value))
        hint = escape(t("one per line"))
        return f'<textarea data-kind="lines" rows="3" placeholder="{hint}" {start}>{text}</textarea>'
    known = {choice for _, choice in choices}
    rows = [*choices, *((name, name) for name in value if name not in known)]
    locked = " disabled" if " disabled" in start else ""
    boxes = "".join(
        f'<label><input type="checkbox" value="{escape(choice)}"{" checked" if choice in value else ""}{locked}>'
        f" {escape(shown)}</label>"
        for shown, choice in rows
    )
    return f'<div class="setting-names" data-kind="names" {start}>{boxes}</div>'
