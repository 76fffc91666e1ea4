"""The files that face restoration takes: GFPGAN and CodeFormer, and what finds the faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sdwebui_api.catalog.files import find_files
from sdwebui_api.errors import BadRequest, nearest

NAMES = ("CodeFormer", "GFPGAN")
ENDINGS = (".pth", ".safetensors")
_OFFERED = {"GFPGAN": "GFPGANv1.4.pth", "CodeFormer": "codeformer-v0.1.0.pth"}
_YUNET, _RETINAFACE = "face_detection_yunet_2023mar.onnx", "detection_Resnet50_Final.pth"
CODEFORMER_PACKAGE = "spandrel_extra_arches"
INSTALL_CODEFORMER = "pip install --no-deps spandrel_extra_arches==0.2.0"


@dataclass(frozen=True)
class FaceRestorerFiles:
    """What one restorer runs on."""

    name: str
    weights: Path
    detector: Path
    """YuNet (`.onnx`) or facexlib's RetinaFace (`.pth`)."""


class FaceRestorerCatalog:
    """Looks at the disk at every question: there are few files, and they are asked for seldom."""

    def __init__(
        self, folders: Mapping[str, Sequence[Path]], detector_folder: Path, gfpgan_model: str | None = None
    ) -> None:
        """`folders`: by name (`GFPGAN`, `CodeFormer`), the first being where files belong.

        `gfpgan_model`: `--gfpgan-model`, a file, or the name of one in the folders.
        """
        self._folders = folders
        self._detector_folder = detector_folder
        self._gfpgan_model = gfpgan_model

    def present(self) -> list[str]:
        """The names of those that can run."""
        return [name for name in NAMES if not self._found(name)[1]]

    def find(self, name: str, field: str | None = None) -> FaceRestorerFiles:
        """Raises BadRequest for an unknown name, and for one of which a file is missing, naming it and its folder."""
        known = {each.lower(): each for each in NAMES}.get(name.lower())
        if known is None:
            raise BadRequest(f"face restorer {name!r} not found", field=field, choices=nearest(name, NAMES))
        files, missing = self._found(known)
        if files is None:
            raise BadRequest(f"{known} cannot restore faces: {'; '.join(missing)}", field=field)
        return files

    def _found(self, name: str) -> tuple[FaceRestorerFiles | None, list[str]]:
        weights, detector, missing = self._weights(name), self._detector(), []
        if weights is None:
            missing.append(f"put {_OFFERED[name]} into {self._folders[name][0]}")
        if detector is None:
            missing.append(f"put {_YUNET} into {self._detector_folder} (or {_RETINAFACE}, which A1111 uses)")
        if name == "CodeFormer" and find_spec(CODEFORMER_PACKAGE) is None:
            missing.append(f"its architecture is in a package of its own: {INSTALL_CODEFORMER}")
        if weights is None or detector is None or missing:
            return None, missing
        return FaceRestorerFiles(name, weights, detector), []

    def _weights(self, name: str) -> Path | None:
        """The last that is called after the restorer, so that v1.4 is taken before v1.3."""
        if name == "GFPGAN" and self._gfpgan_model:
            given = Path(self._gfpgan_model).expanduser()
            candidates = [given.absolute(), *(folder / given for folder in self._folders[name])]
            return next((path for path in candidates if path.is_file()), None)
        files = find_files(self._folders[name], ENDINGS)
        named = [file.path for file in files if name.lower() in file.path.name.lower()]
        return named[-1] if named else None

    def _detector(self) -> Path | None:
        """RetinaFace where it is there (A1111 keeps it beside the weights), else YuNet."""
        beside = [folder for folders in self._folders.values() for folder in folders]
        files = find_files([self._detector_folder, *beside], (".pth", ".onnx"))
        for start, ending in (("detection_resnet50", ".pth"), ("face_detection_yunet", ".onnx")):
            for file in files:
                name = file.path.name.lower()
                if name.startswith(start) and name.endswith(ending):
                    return file.path
        return None
