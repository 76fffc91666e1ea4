"""The cards of extra networks as HTML: made on the server, searched and sorted in the browser (`assets/networks.js`).

Plain HTML, for two thousand of gradio's components would never open; pictures are asked for when they come into sight.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sdwebui_api.catalog.beside import About, Neighbours
from sdwebui_api.catalog.files import natural_key
from sdwebui_api.webui.localization import t

ORDERS = {"Path": t("Path"), "Name": t("Name"), "Date Created": t("Date created"), "Date Modified": t("Date modified")}
"""A1111's names of the orders, for the option `extra_networks_card_order_field`."""
HARMLESS = frozenset(["b", "i", "u", "em", "strong", "small", "code", "p", "br", "ul", "ol", "li"])
"""Tags that a description may have where the option allows HTML."""


@dataclass(frozen=True)
class Network:
    """A model that has a card."""

    name: str
    text: str
    """What a prompt calls it; of a checkpoint its title."""
    path: Path | None
    """None: it lies in a file of another name."""
    tag: str = ""
    """`lora` of `<lora:name:1>`; empty where the prompt has the text alone."""
    words: str = ""
    """More that a search finds it by."""

    def written(self, weight: float) -> str:
        return f"<{self.tag}:{self.text}:{weight:g}>" if self.tag else self.text


@dataclass(frozen=True)
class Look:
    """The options `extra_networks_*` as the cards need them."""

    width: int
    height: int
    text_scale: float
    descriptions: bool
    as_html: bool
    order: str
    descending: bool
    hidden: str
    """Of models in folders that begin with a dot: "Always", "When searched" or "Never" shown."""
    folders: bool
    hidden_folders: bool
    weight: float
    """Of networks that nobody has given one."""
    separator: str
    """Between what is in the prompt and what a click adds."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Look:
        order = str(options["extra_networks_card_order_field"])
        return cls(
            width=int(options["extra_networks_card_width"]),
            height=int(options["extra_networks_card_height"]),
            text_scale=float(options["extra_networks_card_text_scale"]),
            descriptions=bool(options["extra_networks_card_show_desc"]),
            as_html=bool(options["extra_networks_card_description_is_html"]),
            order=order if order in ORDERS else "Path",
            descending=options["extra_networks_card_order"] == "Descending",
            hidden=str(options["extra_networks_hidden_models"]),
            folders=bool(options["extra_networks_tree_view_default_enabled"]),
            hidden_folders=bool(options["extra_networks_show_hidden_directories"]),
            weight=float(options["extra_networks_default_multiplier"]),
            separator=str(options["extra_networks_add_text_separator"]),
        )

    @property
    def style(self) -> str:
        """Sizes of 0 are the style sheet's own."""
        sizes = (("width", self.width), ("height", self.height))
        given = [f"--card-{name}:{pixels}px" for name, pixels in sizes if pixels > 0]
        return ";".join([*given, f"--card-text:{self.text_scale:g}"])


@dataclass(frozen=True)
class _Card:
    """A network with what stands beside its file."""

    network: Network
    about: About
    file: str
    """Relative to its folder, without extension."""
    picture: str
    """Its address; empty without one."""
    created: float
    modified: float

    @property
    def folder(self) -> str:
        return self.file.rpartition("/")[0]

    @property
    def secret(self) -> bool:
        return any(part.startswith(".") for part in self.file.split("/"))

    def key(self, order: str) -> Any:
        dates = {"Date Created": self.created, "Date Modified": self.modified}
        return dates[order] if order in dates else natural_key(self.network.name if order == "Name" else self.file)


def cards_html(kind: str, networks: Iterable[Network], folders: Sequence[Path], look: Look) -> str:
    """kind: as in the picture's address; folders: where models of this kind are looked for. Lists them on the disk."""
    neighbours = Neighbours()
    cards = [_card(kind, network, folders, neighbours) for network in networks]
    cards = [card for card in cards if look.hidden != "Never" or not card.secret]
    cards.sort(key=lambda card: card.key(look.order), reverse=look.descending)
    empty = f'<div class="note">{t("There are none yet; they belong into {folder}", folder=_shown(folders))}</div>'
    inner = "".join(_card_html(kind, card, look) for card in cards) if cards else ""
    return (
        f'<div class="networks" data-kind="{kind}" data-separator="{html.escape(look.separator)}"'
        f' data-edit="{t("Edit what is written about it")}" style="{look.style}">'
        f"{_bar(look)}{_folder_buttons(cards, look)}"
        f'{"" if cards else empty}<div class="network-cards">{inner}</div></div>'
    )


def _shown(folders: Sequence[Path]) -> str:
    """The folder's own name and its parent's: the rest is nobody's business."""
    return html.escape("/".join(folders[0].parts[-2:])) if folders else "?"


def _card(kind: str, network: Network, folders: Sequence[Path], neighbours: Neighbours) -> _Card:
    path = network.path
    if path is None:
        return _Card(network, About(), network.name, "", 0.0, 0.0)
    root = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
    inside = path.relative_to(root)
    picture = neighbours.picture(path)
    address = ""
    if picture is not None:
        file = quote((inside.parent / picture.name).as_posix())
        address = f"sd_extra_networks/thumb?kind={kind}&file={file}&v={int(picture.stat().st_mtime)}"
    return _Card(
        network, neighbours.about(path), inside.with_suffix("").as_posix(), address, *neighbours.times(path)
    )  # fmt: skip


def _card_html(kind: str, card: _Card, look: Look) -> str:
    about, network = card.about, card.network
    data = {
        "text": network.written(about.weight or look.weight),
        "more": about.activation,
        "negative": about.negative,
        "file": card.file,
        "words": f"{card.file} {network.name} {network.words} {about.activation}".lower(),
        "created": f"{card.created:.0f}",
        "modified": f"{card.modified:.0f}",
    }
    written = "".join(f' data-{name}="{html.escape(value)}"' for name, value in data.items() if value)
    picture = f'<img alt="" loading="lazy" src="{html.escape(card.picture)}">' if card.picture else ""
    name = html.escape(network.name)
    hidden = " hidden" if card.secret and look.hidden == "When searched" else ""
    edit = (
        f'<span class="network-edit" role="button" tabindex="0" title="{t("Edit what is written about it")}">✎</span>'
    )
    return (
        f'<div class="network-card" role="button" tabindex="0" title="{name}"{written}{hidden}'
        f"{' data-secret' if hidden else ''}>{picture}{edit if network.path else ''}"
        f'<span class="network-words"><b>{name}</b>{_description(about, look)}</span></div>'
    )


def _description(about: About, look: Look) -> str:
    if not look.descriptions or not about.description:
        return ""
    shown = harmless_html(about.description) if look.as_html else html.escape(about.description)
    return f'<span class="network-description">{shown}</span>'


def _bar(look: Look) -> str:
    search = t("Search")
    orders = "".join(
        f'<option value="{order}"{" selected" if order == look.order else ""}>{label}</option>'
        for order, label in ORDERS.items()
    )
    down = " data-descending" if look.descending else ""
    return (
        f'<div class="network-bar"><input class="network-search" type="search" placeholder="{search}"'
        f' aria-label="{search}"><select class="network-order" aria-label="{t("Order")}">{orders}</select>'
        f'<button type="button" class="network-turn" title="{t("The other way round")}"{down}>⇅</button>'
        f'<button type="button" class="network-refresh" title="{t("Look for model files again")}">🔄</button>'
        f'<span class="network-count"></span></div>'
    )


def _folder_buttons(cards: Sequence[_Card], look: Look) -> str:
    """One per folder with cards, where there are any but the top."""
    names = {card.folder for card in cards if look.hidden_folders or not card.secret}
    if not look.folders or names <= {""}:
        return ""
    buttons = "".join(
        f'<button type="button" data-folder="{html.escape(name)}">{html.escape(name)}</button>'
        for name in sorted(names - {""}, key=natural_key)
    )
    everything = f'<button type="button" data-folder="" class="chosen">{t("All")}</button>'
    return f'<div class="network-folders">{everything}{buttons}</div>'


def harmless_html(text: str) -> str:
    """`text` with its simple tags, without their attributes; anything else is shown as it is written."""
    cleaner = _Cleaner()
    cleaner.feed(text)
    cleaner.close()
    return "".join([*cleaner.parts, *(f"</{tag}>" for tag in reversed(cleaner.open))])


class _Cleaner(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in HARMLESS:
            self.parts.append(html.escape(self.get_starttag_text() or ""))
            return
        self.parts.append(f"<{tag}>")
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open and (last := self.open.pop()) != tag:
                self.parts.append(f"</{last}>")
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.parts.append(html.escape(data))
