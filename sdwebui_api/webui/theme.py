"""How the page looks: gradio's theme with fonts that every machine has (nothing is fetched from elsewhere)."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def page_theme() -> gr.themes.Base:
    """Gradio's grey of hints and placeholders is too light on white to be read (contrast 1.9; WCAG AA wants 4.5)."""
    theme = gr.themes.Default(
        font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
        spacing_size="sm",
        radius_size="sm",
    )
    return theme.set(
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def style_sheets() -> list[Path]:
    return sorted(ASSETS.glob("*.css"))


def scripts() -> list[Path]:
    """Loaded in the order of their names, before the page is drawn."""
    return sorted(ASSETS.glob("*.js"))


def head() -> str:
    """Our scripts, inline: one answer less before the page can be used."""
    return "\n".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in scripts())
