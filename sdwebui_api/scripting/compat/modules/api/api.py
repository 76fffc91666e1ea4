"""`modules.api.api`: pictures to text and back. Routes are added to the `app` of `on_app_started`."""

from __future__ import annotations

from typing import Any

from sdwebui_api.imaging.codec import decode_image, encode_image, to_base64
from sdwebui_api.scripting.compat.world import current_options


def decode_base64_to_image(encoding: str) -> Any:
    """Raises BadRequest for what is no picture."""
    return decode_image(encoding, "image")


def encode_pil_to_base64(image: Any) -> bytes:
    options = current_options()
    infotext = image.info.get("parameters") if hasattr(image, "info") else None
    data = encode_image(
        image, options.samples_format, quality=options.jpeg_quality, webp_lossless=options.webp_lossless,
        infotext=infotext,
    )  # fmt: skip
    return to_base64(data).encode()


class Api:
    """A1111's object behind its routes, for type hints; it is never made here."""
