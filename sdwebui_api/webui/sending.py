"""Buttons that carry pictures and their parameters from one tab to another, and read parameters back from a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from sdwebui_api.api.generation_call import Kind
from sdwebui_api.api.services import Services
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui import infotext
from sdwebui_api.webui.context import PageBuilder
from sdwebui_api.webui.generation.results import Results
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.picture_input import size_of
from sdwebui_api.webui.refusals import refusal

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
EDITOR_READY = """async () => {
    const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
    for (let tries = 0; tries < 50 && !document.querySelector('#%s canvas')?.clientWidth; tries++) await wait(100);
    await wait(%d);
}"""
LATER = 800
"""Milliseconds from an editor's canvas to its first picture."""


@dataclass(frozen=True)
class Target:
    """A place that takes pictures, parameters, or both."""

    id: str
    symbol: str
    hint: str
    tab: str
    parameters: Kind | None = None
    """Whose fields are filled in."""
    picture: str | None = None
    """elem_id of what shows the picture."""
    mode: str | None = None
    """The tab within the tab."""
    modes: str = ""
    """elem_id of the tabs within the tab."""
    chosen: str = ""
    """elem_id of what holds the name of the open one."""


@dataclass(frozen=True)
class Sent:
    picture: str | None
    """A file that gradio serves."""
    infotext: str


Read = Callable[..., Sent | None]
"""From the values of a source's components; None: there is nothing yet."""

IMG2IMG = ("mode_img2img", "img2img_mode")
TARGETS = (
    Target("txt2img", "📝", t("Send the parameters to txt2img"), "txt2img", "txt2img"),
    Target("img2img", "🖼️", t("Send the picture and its parameters to img2img"), "img2img", "img2img",
           "img2img_image", "img2img", *IMG2IMG),
    Target("inpaint", "🎨️", t("Send the picture and its parameters to inpaint"), "img2img", "img2img",
           "img2maskimg", "inpaint", *IMG2IMG),
    Target("extras", "📐", t("Send the picture to Extras"), "extras", None, "extras_image", "single",
           "mode_extras", "extras_mode"),
)  # fmt: skip


def wire_results(page: PageBuilder) -> None:
    """Once all tabs are built: buttons below the pictures of the generation tabs, and ↙️ beside their prompts."""
    for kind, results in page.results.items():
        with results.actions:
            buttons(page, kind, [results.gallery, results.infotexts, results.shown], _shown, leave_out=("txt2img",))
    for kind in page.results:
        if f"{kind}_paste" in page.components:
            _wire_paste(page, kind, page.results[kind])  # type: ignore[arg-type]


def buttons(
    page: PageBuilder, source: str, inputs: Sequence[Component], read: Read, leave_out: Sequence[str] = ()
) -> None:
    """One per place of this page that can be reached. To be called when all tabs are there."""
    for target in TARGETS:
        there = target.picture is None or target.picture in page.components
        if there and target.id not in leave_out and target.tab in _tab_ids(page):
            button = page.tool(target.symbol, f"{source}_send_to_{target.id}", target.hint)
            _wire(page, button, target, inputs, read)


def _shown(pictures: Sequence[tuple[str, str | None]] | None, infotexts: list[str], shown: int) -> Sent | None:
    """The picture of a gallery that is looked at."""
    if not pictures:
        return None
    index = min(shown, len(pictures) - 1)
    return Sent(pictures[index][0], infotexts[index] if index < len(infotexts) else "")


def _wire(page: PageBuilder, button: gr.Button, target: Target, inputs: Sequence[Component], read: Read) -> None:
    assert page.tabs is not None
    modes = _block(page, target.modes) if target.mode else None
    mode = page.components.get(target.chosen) if target.mode else None
    editor = target.picture is not None and isinstance(page.components[target.picture], gr.ImageEditor)
    inner: list[Any] = [one for one in (modes, mode) if one is not None]

    def within() -> dict[Any, Any]:
        """The tab within the tab."""
        return {one: gr.Tabs(selected=target.mode) if one is modes else target.mode for one in inner}

    async def send(request: gr.Request, *values: Any) -> dict[Any, Any]:
        sent = read(*values)
        if sent is None:
            raise refusal(t("There is no picture yet"))
        services = page.services_for(request)
        updates: dict[Any, Any] = {page.tabs: gr.Tabs(selected=target.tab), **({} if editor else within())}
        try:
            return updates | await services.off_loop(_filled, page, services, target, sent)
        except SdWebUIError as error:
            raise refusal(error.message) from None

    filled = infotext.targets(page, target.parameters) if target.parameters else []
    outputs = [page.tabs, *filled, *inner]
    sending = button.click(send, list(inputs), list(dict.fromkeys(outputs)), **QUIET)
    if target.picture:
        if editor:
            # Its canvas is made when its tab is opened first, without any size in a tab that is not seen yet. Nor does
            # it take a picture before the canvas is there.
            sending = sending.success(within, None, inner, **QUIET)
            js = EDITOR_READY % (target.picture, LATER)
            sending = sending.success(None, None, None, js=js, show_progress="hidden")
        sending.success(lambda *values: _picture(read(*values)), list(inputs), page.components[target.picture], **QUIET)


def _picture(sent: Sent | None) -> Any:
    return sent.picture if sent is not None else gr.skip()


def _filled(page: PageBuilder, services: Services, target: Target, sent: Sent) -> infotext.Updates:
    if target.parameters is None:
        return {}
    options, parameters = services.options.snapshot(), {}
    if sent.infotext:
        parameters = infotext.read(services, sent.infotext)
    if not options.send_seed:
        parameters.pop("Seed", None)
    if target.picture and sent.picture:
        parameters |= _size_of(sent.picture)
    if not options.send_size:
        parameters = {name: value for name, value in parameters.items() if not name.startswith("Size-")}
    return infotext.refill(page, services, target.parameters, parameters) if parameters else {}


def _size_of(picture: str) -> Mapping[str, int]:
    """img2img starts at the picture's own size, in steps of 8."""
    wide, high = size_of(picture)
    return {"Size-1": max(8, wide // 8 * 8), "Size-2": max(8, high // 8 * 8)}


def _wire_paste(page: PageBuilder, kind: Kind, results: Results) -> None:
    """↙️ reads the parameters in the prompt; with an empty one, those of the picture that is shown."""
    prompt = page.components[f"{kind}_prompt"]

    async def paste(text: str, infotexts: list[str], shown: int, request: gr.Request) -> infotext.Updates:
        if not text.strip() and infotexts:
            text = infotexts[min(shown, len(infotexts) - 1)]
        if not text.strip():
            raise refusal(t("Put the parameters of a picture into the prompt first"))
        services = page.services_for(request)
        try:
            return await services.off_loop(lambda: infotext.refill(page, services, kind, infotext.read(services, text)))
        except SdWebUIError as error:
            raise refusal(error.message) from None

    button = page.components[f"{kind}_paste"]
    inputs = [prompt, results.infotexts, results.shown]
    button.click(paste, inputs, infotext.targets(page, kind), **QUIET)  # type: ignore[attr-defined]


def _tab_ids(page: PageBuilder) -> set[Any]:
    return {tab.id for tab in page.tabs.children if isinstance(tab, gr.Tab)} if page.tabs is not None else set()


def _block(page: PageBuilder, id: str) -> Block | None:
    blocks = page.blocks.blocks.values() if page.blocks is not None else ()
    return next((block for block in blocks if getattr(block, "elem_id", None) == id), None)
