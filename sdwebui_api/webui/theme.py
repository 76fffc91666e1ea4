"""How the page looks: gradio's theme with fonts that every machine has (nothing is fetched from elsewhere)."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def page_theme() -> gr.themes.Base:
    return gr.themes.Default(
        font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
        spacing_size="sm",
        radius_size="sm",
    )


def style_sheets() -> list[Path]:
    return sorted(ASSETS.glob("*.css"))


def scripts() -> list[Path]:
    """Loaded in the order of their names, before the page is drawn."""
    return sorted(ASSETS.glob("*.js"))


def head() -> str:
    """Our scripts, inline: one answer less before the page can be used."""
    return "\n".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in scripts())
