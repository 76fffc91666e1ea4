from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sdwebui_api.errors import BadRequest, PayloadTooLarge
from sdwebui_api.imaging.codec import decode_image, encode_image, to_base64
from sdwebui_api.imaging.metadata import read_info_from_image
from tests.imaging.golden import CASES

PNG = encode_image(Image.new("RGB", (32, 16), "red"))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A tiny file whose header promises a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    start = b"\x89PNG\r\n\x1a\n"
    return start + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "text",
    [
        to_base64(PNG),
        "data:image/png;base64," + to_base64(PNG),
        "DATA:image/png;charset=x;base64," + to_base64(PNG),
        "\n  " + base64.encodebytes(PNG).decode() + "  ",
        to_base64(PNG).rstrip("="),
    ],
)
def test_accepted_spellings(text: str) -> None:
    image = decode_image(text, "init_images.0")
    assert (image.mode, image.size) == ("RGB", (32, 16))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hello",
        "abc!",
        "äöü",
        "\ud800",
        "data:image/png,abc",
        "data:",
        "http://example.com/a.png",
        "HTTPS://example.com/a.png",
        to_base64(b"%PDF-1.4 nope"),
        to_base64(PNG[: len(PNG) // 2]),
        to_base64(PNG[:40]),
        to_base64(b"\x89PNG\r\n\x1a\n"),
        to_base64(b"\xff\xd8\xff\xe0" + b"x" * 100),
        to_base64(b"RIFF\x00\x00\x00\x00WEBPVP8 "),
        to_base64(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        None,
        7,
    ],
)
def test_refusals_name_the_field(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_image(text, "init_images.0")
    assert caught.value.field == "init_images.0" and caught.value.status == 422


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (8193, 8192), (60_000, 60_000), (2_000_000_000, 3)])
def test_bombs_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        decode_image(to_base64(png_claiming(*size)), "mask")
    assert caught.value.field == "mask" and caught.value.status == 413


def test_text_bombs_are_refused() -> None:
    text = png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(20_000_000)))
    with pytest.raises(BadRequest):
        decode_image(to_base64(PNG[:33] + text + PNG[33:]), "image")


def test_truncated_data_of_a_real_picture() -> None:
    data = (CASES / "sampler-euler" / "image-0.png").read_bytes()
    for length in (30, 60, 500, len(data) // 2, len(data) - 30):
        with pytest.raises(BadRequest):
            decode_image(to_base64(data[:length]), "image")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_odd_modes_become_plain_ones(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 200).convert(mode if mode != "I;16" else "I").convert(mode).save(buffer, "TIFF")
    image = decode_image(to_base64(buffer.getvalue()), "image")
    assert image.mode in ("1", "L", "P", "RGB", "RGBA")
    assert image.convert("RGB").size == (8, 8)


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x8080, dtype=np.uint16)).save(buffer, "PNG")
    assert decode_image(to_base64(buffer.getvalue()), "image").getpixel((0, 0)) == 128


def test_palette_transparency_becomes_alpha() -> None:
    palette = Image.effect_noise((8, 8), 90).convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes([0, 100] * 128))
    image = decode_image(to_base64(buffer.getvalue()), "image")
    assert image.mode == "RGBA" and set(image.getchannel("A").tobytes()) <= {0, 100}


def test_grey_with_alpha_is_grey() -> None:
    buffer = io.BytesIO()
    Image.new("LA", (8, 8), (200, 0)).save(buffer, "PNG")
    image = decode_image(to_base64(buffer.getvalue()), "image")
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (200, 200, 200)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=exif)
    assert decode_image(to_base64(buffer.getvalue()), "image").size == (4, 8)


@pytest.mark.parametrize("image_format", ["png", "PNG", "jpg", "jpeg", "webp", "avif", "gif"])
def test_infotext_survives_every_format(image_format: str) -> None:
    text = "ein Käse 🧀\nSteps: 1, Seed: 2"
    data = encode_image(Image.new("RGBA", (16, 16), (9, 9, 9, 99)), image_format, infotext=text)
    infotext, items = read_info_from_image(decode_image(to_base64(data), "image"))
    assert infotext == text
    assert not {"exif", "jfif", "comment"} & set(items) or image_format == "gif"


def test_png_items_and_lossless_webp() -> None:
    noise = Image.effect_noise((16, 16), 90).convert("RGB")
    image = decode_image(to_base64(encode_image(noise, items={"postprocessing": "x", "note": "ü"})), "image")
    assert image.info == {"postprocessing": "x", "note": "ü"} and image.tobytes() == noise.tobytes()
    lossless = decode_image(to_base64(encode_image(noise, "webp", webp_lossless=True)), "image")
    assert lossless.tobytes() == noise.tobytes()


def test_formats_that_cannot_be() -> None:
    with pytest.raises(BadRequest):
        encode_image(Image.new("RGB", (4, 4)), "exe")
    with pytest.raises(BadRequest):
        encode_image(Image.new("RGB", (20_000, 1)), "webp")
