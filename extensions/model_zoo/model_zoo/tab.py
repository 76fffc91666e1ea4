"""The tab: a frame and its texts. What moves in it is `tab.js`, which talks to the routes and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import gradio as gr

from model_zoo.catalogue import read_shipped
from sdwebui_api.webui import server_messages
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.localization import t

HERE = Path(__file__).parent
REFUSALS = (
    "No connection to {host}: this server is offline, or may not reach it. Fetch the file elsewhere and put it into "
    "{folder}",
    "The connection to {host} broke again and again; what has arrived is kept",
    "It failed for a reason that only the server's log tells",
    "All users share the folder for {kind} files",
    "{name} would lie outside of {folder}",
    "There is a {name} already",
    "{name} is being fetched",
    "There is no model {name}",
    "Not authenticated",
    "{path} cannot be removed: {problem}",
    "{name} cannot be written: {problem}",
    "{host} redirects more than {limit} times",
    "{host} redirects to an address without encryption",
    "{host} redirects to something that is no address",
    "{host} answered {status}",
    "{host} sent the file compressed, which was not asked for",
    "{host} offers {total} bytes where the catalogue says {size}: another file",
    "A file may have {limit} GiB at most",
    "{missing} bytes are missing, and the disk has {free} left",
    "more than {limit} bytes came",
    "The file has another SHA-256 than the catalogue says, and was thrown away",
    "{host} sent a web page in place of the file: perhaps it asks for a log-in",
)
"""What the routes answer, as `server_messages` knows it."""


def build(page: PageBuilder) -> None:
    page.add(
        gr.HTML(
            _frame({**_texts(), **_descriptions()}),
            css_template=(HERE / "tab.css").read_text(encoding="utf-8"),
            js_on_load=(HERE / "tab.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="model_zoo",
        )
    )


def _texts() -> Mapping[str, str]:
    """What the script says, by the names it knows. `{name}` is filled in there; `kind:` are the catalogue's kinds."""
    return {
        "intro": t("Open models, fetched by the server into its folders. Read the licence before you use one."),
        "search": t("Search"),
        "all": t("All kinds"),
        "refresh": t("Refresh"),
        "licence": t("Licence"),
        "size": t("Size"),
        "unknownSize": t("size not known"),
        "folder": t("Folder"),
        "checksum": t("SHA-256"),
        "noChecksum": t("no checksum published"),
        "download": t("Download"),
        "resume": t("Resume"),
        "cancel": t("Cancel"),
        "discard": t("Discard"),
        "absent": t("not installed"),
        "partial": t("broken off at {name}"),
        "waiting": t("waiting for other downloads"),
        "downloading": t("downloading"),
        "verifying": t("checking the checksum"),
        "installed": t("installed"),
        "other": t("another file of this name is there"),
        "left": t("{name} left"),
        "ownCatalogue": t("from your own catalogue"),
        "problems": t("Problems of the catalogue"),
        "ownHint": t("Models of your own are listed by {name}, a JSON file; the documentation shows its form."),
        "none": t("No model of the catalogue fits."),
        "kind:checkpoint": t("Checkpoint"),
        "kind:vae": t("VAE"),
        "kind:lora": t("LoRA"),
        "kind:embedding": t("Embedding"),
        "kind:hypernetwork": t("Hypernetwork"),
        "kind:controlnet": t("ControlNet"),
        "kind:upscaler": t("Upscaler"),
        "kind:face": t("Face restoration"),
    }


def _descriptions() -> Mapping[str, str]:
    """Of the models that ship, by `about:` and id, in the reader's language."""
    return {f"about:{entry.id}": t(entry.description) for entry in read_shipped().entries.values()}


def _frame(texts: Mapping[str, str]) -> str:
    """The script fills it once it is shown."""
    spans = "".join(f'<span data-text="{name}">{escape(text)}</span>' for name, text in texts.items())
    spans += server_messages.spans(REFUSALS)
    return f'<div class="zoo"><div class="texts" hidden>{spans}</div><div class="body"></div></div>'
