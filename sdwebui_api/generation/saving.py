"""Saving finished pictures where the settings say, under the names that their patterns make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from sdwebui_api.generation.filenames import NamingFacts, apply_pattern
from sdwebui_api.imaging.codec import encode_image, output_format
from sdwebui_api.storage.local import LONGEST_NAME, LocalStorage, next_sequence_number, safe_name

Purpose = Literal["txt2img", "img2img", "extras", "init", "save"]

_FOLDER_OPTIONS: dict[tuple[Purpose, bool], tuple[str, ...]] = {
    ("txt2img", False): ("outdir_samples", "outdir_txt2img_samples"),
    ("img2img", False): ("outdir_samples", "outdir_img2img_samples"),
    ("extras", False): ("outdir_samples", "outdir_extras_samples"),
    ("txt2img", True): ("outdir_grids", "outdir_txt2img_grids"),
    ("img2img", True): ("outdir_grids", "outdir_img2img_grids"),
    ("init", False): ("outdir_init_images",),
    ("save", False): ("outdir_save",),
}
FOLDER_OPTIONS = frozenset(name for names in _FOLDER_OPTIONS.values() for name in names)
"""Settings that name folders of pictures."""
_SIDE_LIMITS = {"JPEG": 65535, "WEBP": 16383}


@dataclass(frozen=True)
class SavedImage:
    """The files that one picture became."""

    path: Path
    text_path: Path | None = None
    """Beside it, with the infotext (option `save_txt`)."""
    small_path: Path | None = None
    """JPEG of limited size beside it (option `export_for_4chan`)."""


def save_image(
    storage: LocalStorage,
    image: Image.Image,
    facts: NamingFacts,
    options: Mapping[str, Any],
    *,
    purpose: Purpose,
    infotext: str | None = None,
    grid: bool = False,
    suffix: str = "",
    forced_name: str | None = None,
    items: Mapping[str, str] | None = None,
) -> SavedImage:
    """Save `image` as the settings `options` of its request say, and return where.

    Names get the next free number of their folder (option `save_images_add_number`), so that simultaneous
    requests never overwrite each other. `suffix` follows the name (`-mask`, `-before-highres-fix`);
    `forced_name` replaces it; `items` are further PNG text chunks. Raises BadRequest for a folder outside the
    outputs.
    """
    folder = output_folder(storage, options, purpose, grid)
    if options["grid_save_to_dirs" if grid else "save_to_dirs"] and forced_name is None:
        path = apply_pattern(options["directories_filename_pattern"] or "[prompt_words]", facts, image)
        folder = storage.subfolder(folder, path, "directories_filename_pattern")
    data, extension = encode_file(image, options, infotext, grid=grid, items=items)
    if forced_name is not None:
        saved = storage.save(folder / f"{_name(forced_name)}.{extension}", data)
    else:
        decoration = _decoration(facts, options, grid, image) + suffix
        saved = _save_numbered(storage, folder, decoration, data, extension, options, grid)
    text = _save_text(storage, saved, options, infotext)
    return SavedImage(saved, text, _save_small(storage, saved, image, options, infotext))


def encode_file(
    image: Image.Image,
    options: Mapping[str, Any],
    infotext: str | None,
    *,
    grid: bool = False,
    items: Mapping[str, str] | None = None,
) -> tuple[bytes, str]:
    """(the file, its name's ending) in the format that the options want for pictures or grids."""
    extension = _extension(image, options["grid_format" if grid else "samples_format"])
    return _encode(image, extension, options, infotext, items), extension


def output_folder(storage: LocalStorage, options: Mapping[str, Any], purpose: Purpose, grid: bool = False) -> Path:
    """The folder for pictures of that kind: the first option that names one."""
    candidates = _FOLDER_OPTIONS[purpose, grid]
    name = next((name for name in candidates if options[name]), candidates[-1])
    return storage.folder(options[name] or "outputs", name)


def _decoration(facts: NamingFacts, options: Mapping[str, Any], grid: bool, image: Image.Image) -> str:
    """The part of the name that the pattern makes; empty for grids unless `grid_extended_filename`."""
    if facts.seed is None or (grid and not options["grid_extended_filename"]):
        return ""
    default = "[seed]" if options["save_to_dirs"] else "[seed]-[prompt_spaces]"
    return apply_pattern(options["samples_filename_pattern"] or default, facts, image)


def _save_numbered(
    storage: LocalStorage,
    folder: Path,
    decoration: str,
    data: bytes,
    extension: str,
    options: Mapping[str, Any],
    grid: bool,
) -> Path:
    basename = "grid" if grid else ""
    decoration = decoration.translate(str.maketrans("/\\", "__"))
    if options["save_images_add_number"] or not decoration:
        tail = f"-{decoration}" if decoration else ""
        first = next_sequence_number(folder, basename)

        def numbered(number: int) -> str:
            start = f"{basename}-{number:04}" if basename else f"{number:05}"
            return f"{_name(start + tail)}.{extension}"

        return storage.save_new(folder, numbered, data, first)
    name = _name(decoration)
    if options["save_images_replace_action"] == "Replace":
        return storage.save(folder / f"{name}.{extension}", data)
    return storage.save_new(folder, lambda n: f"{name}{f'-{n}' if n else ''}.{extension}", data)


def _name(text: str) -> str:
    return safe_name(text, LONGEST_NAME - 20) or "image"  # room for a number and the extension


def _extension(image: Image.Image, wanted: str) -> str:
    """`wanted` as a file name ending; PNG when the picture is too large for that format."""
    limit = _SIDE_LIMITS.get(output_format(wanted))
    return "png" if limit and max(image.size) > limit else wanted.lower().lstrip(".")


def _encode(
    image: Image.Image,
    extension: str,
    options: Mapping[str, Any],
    infotext: str | None,
    items: Mapping[str, str] | None,
) -> bytes:
    described = options["enable_pnginfo"]
    return encode_image(
        image,
        extension,
        quality=options["jpeg_quality"],
        webp_lossless=options["webp_lossless"],
        infotext=infotext if described else None,
        items=items if described else None,
    )


def _save_text(storage: LocalStorage, path: Path, options: Mapping[str, Any], infotext: str | None) -> Path | None:
    if not options["save_txt"] or infotext is None:
        return None
    return storage.save(path.with_suffix(".txt"), f"{infotext}\n".encode("utf-8", errors="replace"))


def _save_small(
    storage: LocalStorage, path: Path, image: Image.Image, options: Mapping[str, Any], infotext: str | None
) -> Path | None:
    """A JPEG copy with sides of at most `target_side_length`, when the picture or its file is larger than wished."""
    longest = options["target_side_length"]
    oversize = max(image.size) > longest
    heavy = path.stat().st_size > options["img_downscale_threshold"] * 1024 * 1024
    if not options["export_for_4chan"] or not (oversize or heavy) or path.suffix == ".jpg":
        return None
    if oversize:
        scale = longest / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return storage.save(path.with_suffix(".jpg"), _encode(image, "jpg", options, infotext, None))
