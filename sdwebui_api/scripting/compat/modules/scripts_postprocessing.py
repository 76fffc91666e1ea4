"""`modules.scripts_postprocessing`: scripts of the Extras tab can be declared; they are not called yet."""

from __future__ import annotations

from typing import Any


class PostprocessedImageSharedInfo:
    target_width: int | None = None
    target_height: int | None = None


class PostprocessedImage:
    def __init__(self, image: Any) -> None:
        self.image = image
        self.info: dict[str, Any] = {}
        self.shared = PostprocessedImageSharedInfo()
        self.extra_images: list[Any] = []
        self.nametags: list[str] = []
        self.disable_processing = False
        self.caption: str | None = None

    def create_copy(self, new_image: Any, *, nametags: Any = None, disable_processing: bool = False) -> Any:
        copy = PostprocessedImage(new_image)
        copy.shared, copy.nametags = self.shared, [*self.nametags, *(nametags or [])]
        copy.disable_processing = disable_processing
        return copy

    def get_suffix(self, used_suffixes: Any = None) -> str:
        return "-" + "-".join(self.nametags) if self.nametags else ""


class ScriptPostprocessing:
    filename: Any = None
    controls: Any = None
    args_from: Any = None
    args_to: Any = None
    order = 1000
    name: Any = None
    group: Any = None

    def ui(self) -> Any:
        return {}

    def process_firstpass(self, pp: Any, **args: Any) -> None: ...
    def process(self, pp: Any, **args: Any) -> None: ...
    def image_changed(self) -> None: ...


class ScriptPostprocessingRunner:
    def __init__(self) -> None:
        self.scripts: list[Any] = []
        self.ui_created = False

    def scripts_in_preferred_order(self) -> list[Any]:
        return list(self.scripts)
