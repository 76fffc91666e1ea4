"""Where the weights of preprocessors lie, and what a preprocessor runs with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdwebui_api.control.preprocessor import PreprocessorContext

if TYPE_CHECKING:
    from sdwebui_api.config.paths import Paths
    from sdwebui_api.control.unit import ControlUnit
    from sdwebui_api.engine.engine import Engine

FOLDER = "annotators"


@dataclass(frozen=True)
class AnnotatorFolders:
    """Makes the context of every run; the extension's own folder of downloaded weights is searched too."""

    paths: Paths
    device: str = "cpu"
    engine: Engine | None = None
    """Loads and keeps the networks. None: only preprocessors without weights run (tests of the doors)."""

    def context(self, field: str, *, low_vram: bool = False) -> PreprocessorContext:
        downloads = sorted(self.paths.data_dir.glob("extensions/*controlnet*/annotator/downloads"))
        folders = (self.paths.models_dir / FOLDER, *downloads)
        return PreprocessorContext(folders, self.device, low_vram, field, self.engine)

    def context_for(self, unit: ControlUnit) -> PreprocessorContext:
        return self.context(f"{unit.field}.module", low_vram=unit.low_vram)
