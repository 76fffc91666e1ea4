"""The extension's own package, importable as its script finds it."""

from __future__ import annotations

from pathlib import Path

from sdwebui_api.scripting.loading import on_import_path

EXTENSION = Path(__file__).resolve().parents[2] / "extensions" / "beautiful_prompt"

with on_import_path(EXTENSION):  # as the server does, and no longer
    import beautiful_prompt  # noqa: F401
