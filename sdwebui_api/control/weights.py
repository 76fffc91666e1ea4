"""The weights of preprocessors: which file in which folder, and the network made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdwebui_api.errors import NotFound

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import PreprocessorContext
    from sdwebui_api.engine.annotators.network import Build, PictureNetwork

T = TypeVar("T")


@dataclass(frozen=True)
class WeightFile:
    """A file in a subfolder of `model_store/annotators`.

    folder: as the ControlNet extension names it below `annotator/downloads`. origin: whose file it is, for the error.
    also: other names under which the file is found.
    """

    folder: str
    name: str
    origin: str
    also: tuple[str, ...] = ()

    def find(self, context: PreprocessorContext, preprocessor: str) -> Path:
        """Raises NotFound naming file and folder."""
        for folder in context.folders:
            for name in (self.name, *self.also):
                path: Path = folder / self.folder / name
                if path.is_file():
                    return path
        where = context.folders[0] / self.folder if context.folders else Path("annotators", self.folder)
        raise NotFound(
            f"Preprocessor '{preprocessor}' needs the file {self.name} ({self.origin}) in the folder {where}",
            field=context.field,
        )


@contextmanager
def network(context: PreprocessorContext, path: Path, load: Callable[..., T], kind: type[T]) -> Iterator[T]:
    """What `load` makes of `path`, from the engine's cache; with `low_vram` its memory is given back afterwards.

    Raises UnusableModel, OutOfMemory.
    """
    engine: Any = context.models
    assert engine is not None, "running networks needs an engine"
    with engine.auxiliary(path, load, kind, keep=not context.low_vram) as part:
        yield part


@contextmanager
def picture_network(
    context: PreprocessorContext, path: Path, build: Build, what: str, part: str = ""
) -> Iterator[PictureNetwork]:
    """The module that `build` makes for the weights in `path`, from the engine's cache.

    what: what the file should hold, for the error. part: the start of the names of the tensors that count.
    Raises UnusableModel, OutOfMemory.
    """
    from sdwebui_api.engine.annotators.network import PictureNetwork, load_picture_network

    load = partial(load_picture_network, build=build, what=what, part=part)
    with network(context, path, load, PictureNetwork) as found:
        yield found
