"""The weights of preprocessors: which file in which folder, and the network made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdwebui_api.errors import NotFound

if TYPE_CHECKING:
    from sdwebui_api.control.preprocessor import PreprocessorContext

T = TypeVar("T")


@dataclass(frozen=True)
class WeightFile:
    """A file in a subfolder of `model_store/annotators`.

    folder: as the ControlNet extension names it below `annotator/downloads`. origin: whose file it is, for the error.
    """

    folder: str
    name: str
    origin: str

    def find(self, context: PreprocessorContext, preprocessor: str) -> Path:
        """Raises NotFound naming file and folder."""
        for folder in context.folders:
            path: Path = folder / self.folder / self.name
            if path.is_file():
                return path
        where = context.folders[0] / self.folder if context.folders else Path("annotators", self.folder)
        raise NotFound(
            f"Preprocessor '{preprocessor}' needs the file {self.name} ({self.origin}) in the folder {where}",
            field=context.field,
        )


@contextmanager
def network(context: PreprocessorContext, path: Path, load: Callable[..., T], kind: type[T]) -> Iterator[T]:
    """What `load` makes of `path`, from the engine's cache. Raises UnusableModel, OutOfMemory."""
    engine: Any = context.models
    assert engine is not None, "running networks needs an engine"
    with engine.auxiliary(path, load, kind) as part:
        yield part
