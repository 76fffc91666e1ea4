"""The tab: a frame and its texts. What moves in it is `tab.js`, which talks to the routes and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import gradio as gr

from sdwebui_api.webui import server_messages
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization import t

HERE = Path(__file__).parent
REFUSALS = (
    "only folders can lie there, and these are not moved",
    "There is a {name} already",
    "a folder cannot be moved into itself",
    "There is no {name} any more",
    "There is no folder {name}",
    "There is no {name}",
    "that folder is on another disk: download and upload instead",
    "{name} does not fit on the disk",
    "{name} does not fit on the disk: {problem}",
    "Not authenticated",
    "pictures of more than {limit} MiB are not shown",
    "{path} is not among the folders that may be browsed here",
    "{path} is no folder",
    "{path} is no file",
    "{name} cannot be the name of a file or folder on every system",
    "the path is too long",
    "A file may have {limit} GiB at most",
    "files belong into one of the folders",
    "Another part of {path} is being written",
    "not an image in a known format",
    "broken image: {problem}",
)
"""What the routes answer, as `server_messages` knows it."""


def build(page: PageBuilder) -> None:
    page.add(
        gr.HTML(
            _frame(_texts()),
            css_template=(HERE / "tab.css").read_text(encoding="utf-8"),
            js_on_load=(HERE / "tab.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="file_browser",
        )
    )


def _texts() -> Mapping[str, str]:
    """What the script says, by the names it knows. `{name}` is filled in there."""
    return {
        "top": t("Data folder"),
        "upload": t("Upload"),
        "newFolder": t("New folder"),
        "refresh": t("Refresh"),
        "name": t("Name"),
        "size": t("Size"),
        "modified": t("Modified"),
        "download": t("Download"),
        "rename": t("Rename"),
        "delete": t("Delete"),
        "close": t("Close"),
        "cancel": t("Cancel"),
        "empty": t("Nothing here yet: drop files here, or press Upload."),
        "chooseFolder": t("Files belong into one of the folders: open one first."),
        "askFolder": t("Name of the new folder"),
        "askName": t("New name"),
        "askDelete": t("Delete {name} for good?"),
        "askDeleteFolder": t("Delete the folder {name} with everything in it, for good?"),
        "askReplace": t("{name} is there already. Replace it?"),
        "truncated": t("Only the first entries are shown."),
        "waiting": t("waiting"),
        "retrying": t("the connection broke, trying again"),
        "done": t("done"),
        "noInfotext": t("no generation parameters in this picture"),
        "resumeHint": t("An upload that was broken off goes on when the same file is chosen again."),
    }


def _frame(texts: Mapping[str, str]) -> str:
    """The script fills it once it is shown."""
    spans = "".join(f'<span data-text="{name}">{escape(text)}</span>' for name, text in texts.items())
    spans += server_messages.spans(REFUSALS)
    return f'<div class="files"><div class="texts" hidden>{spans}</div><div class="body"></div></div>'
