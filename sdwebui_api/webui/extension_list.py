"""The extensions of this server as a table of HTML with a check box each."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sdwebui_api.scripting.extensions import ExtensionFolder
from sdwebui_api.webui.localization import t


@dataclass(frozen=True)
class ExtensionRow:
    name: str
    ticked: bool
    """Whether the settings would have it loaded; `loaded`: whether it is."""
    loaded: bool
    builtin: bool
    remote: str = ""
    branch: str = ""
    version: str = ""
    date: str = ""
    problems: tuple[str, ...] = ()


def rows_of(
    installed: Iterable[ExtensionFolder],
    loaded: Collection[str],
    disabled: Collection[str],
    failures: Mapping[str, str],
) -> list[ExtensionRow]:
    """Asks git about each, which takes moments.

    installed: those in the folders now; loaded: names of those that run; failures: path of a script → why it does not.
    """
    return [_row(extension, loaded, disabled, failures) for extension in installed]


def _row(
    extension: ExtensionFolder, loaded: Collection[str], disabled: Collection[str], failures: Mapping[str, str]
) -> ExtensionRow:
    facts = extension.row()
    seconds = facts["commit_date"]
    return ExtensionRow(
        extension.name,
        ticked=extension.name not in disabled,
        loaded=extension.name in loaded,
        builtin=extension.builtin,
        remote=facts["remote"],
        branch=facts["branch"],
        version=facts["version"],
        date=time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "",
        problems=tuple(
            f"{Path(path).name}: {why}" for path, why in failures.items() if extension.path in Path(path).parents
        ),
    )


def extensions_html(rows: Iterable[ExtensionRow], *, locked: bool = False) -> str:
    titles = (t("Extension"), t("Source"), t("Branch"), t("Version"), t("Date"), t("State"))
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(_row_html(row, titles, locked) for row in rows)
    if not body:
        return f"<p>{escape(t('No extension is installed. Put its folder into extensions and reload.'))}</p>"
    return f'<div class="extensions-scroll"><table class="extensions"><tr>{head}</tr>{body}</table></div>'


def _row_html(row: ExtensionRow, titles: Sequence[str], locked: bool) -> str:
    """Every cell knows its title: on a phone they stand below each other."""
    box = (
        f'<label><input type="checkbox" value="{escape(row.name)}"{" checked" if row.ticked else ""}'
        f"{' disabled' if locked else ''}> {escape(row.name)}</label>"
    )
    cells = (box, _source(row), escape(row.branch), escape(row.version), escape(row.date), _state(row))
    filled = (f'<td data-title="{escape(title)}">{cell}</td>' for title, cell in zip(titles, cells, strict=True))
    return f"<tr>{''.join(filled)}</tr>"


def _source(row: ExtensionRow) -> str:
    if row.remote.startswith(("https://", "http://")):
        address = escape(row.remote)
        return f'<a href="{address}" target="_blank" rel="noreferrer">{address}</a>'
    return escape(row.remote or (t("built in") if row.builtin else ""))


def _state(row: ExtensionRow) -> str:
    if row.problems:
        return f'<span class="extension-problem">{escape("; ".join(row.problems))}</span>'
    return escape(t("loaded") if row.loaded else t("not loaded"))
