"""The row above the tabs: checkpoint, VAE, CLIP skip. What is chosen becomes the server's setting at once."""

from __future__ import annotations

from sdwebui_api.webui.context import PageBuilder


def build(page: PageBuilder) -> None:
    return None
