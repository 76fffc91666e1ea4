"""The languages of the page.

Every visible text of ours goes through `t("English text")`. What that returns is the text between two marks; the
layer around the page (`layer.py`) puts the text of the reader's language in their place on the way out, in the page
itself and in what handlers send later. So one page is built for all languages, and nothing of Gradio is needed here.
"""

from __future__ import annotations

from sdwebui_api.webui.localization.marks import t
from sdwebui_api.webui.localization.texts import Language, Texts

__all__ = ["Language", "Texts", "t"]
