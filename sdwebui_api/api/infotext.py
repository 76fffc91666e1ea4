"""Infotexts read under the server's settings."""

from __future__ import annotations

from typing import Any

from sdwebui_api.api.services import Services
from sdwebui_api.config.options import Options
from sdwebui_api.generation.infotext_parse import parse_generation_parameters


def read_infotext(services: Services, text: str, options: Options) -> dict[str, Any]:
    """The entries of `text` with A1111's defaults for what is missing."""
    return parse_generation_parameters(
        text,
        styles=services.catalog.styles.all(),
        infotext_styles=options.infotext_styles,
        skip_fields=options.infotext_skip_pasting,
        auto_backcompat=options.auto_backcompat,
        old_hires_size=options.use_old_hires_fix_width_height,
    )
