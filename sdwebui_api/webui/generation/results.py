"""The components in which a generation tab shows what it made."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr


@dataclass
class Results:
    """The right half of a generation tab."""

    progress: gr.HTML
    gallery: gr.Gallery
    info: gr.HTML
    infotexts: gr.State
    """list[str], one per picture of the gallery."""
    shown: gr.State
    """int: which picture is looked at."""
    files: gr.File
    actions: gr.Row
    """Other rooms put buttons here (send to …): `with results.actions:`."""
