"""The package spandrel, imported without torchvision: which architecture a state dict is, and the module for it.

spandrel's metadata asks for torchvision, a large package that must be built for exactly the torch in use. Of
spandrel's 43 architectures only two import it, an inpainting and a face network (LaMa, RestoreFormer), neither of
which enlarges pictures. Those two are left out before spandrel is imported, and spandrel itself is installed
without its dependencies (requirements-no-deps.txt).
"""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from sdwebui_api.errors import UnusableModel

_LEFT_OUT = ("LaMa", "RestoreFormer")
_IMPORTING = threading.Lock()


class _LeftOut:
    """Stands where spandrel registers an architecture; recognises nothing."""

    def __init__(self, name: str) -> None:
        self.id = self.name = name

    def detect(self, state_dict: Any) -> bool:
        return False


def spandrel() -> Any:
    """The imported package. Raises UnusableModel when it is not installed or does not work."""
    with _IMPORTING:
        if "spandrel" not in sys.modules:
            if find_spec("spandrel") is None:
                raise UnusableModel(
                    "these networks need the package spandrel: pip install --no-deps -r requirements-no-deps.txt"
                )
            for name in _LEFT_OUT:
                sys.modules[f"spandrel.architectures.{name}"] = _module_without(name)
        try:
            import spandrel
        except ImportError as error:
            raise UnusableModel(f"the package spandrel does not work here: {error}") from error
        return spandrel


def face_architectures() -> Any:
    """A registry of GFPGAN and, where its package is installed, CodeFormer.

    CodeFormer's licence forbids commercial use. So spandrel keeps it in a package of its own, which is not installed
    by default.
    """
    package = spandrel()
    registry = package.ArchRegistry()
    registry.add(next(known for known in package.MAIN_REGISTRY if known.architecture.id == "GFPGAN"))
    with _IMPORTING:
        if find_spec("spandrel_extra_arches") is not None:
            from spandrel_extra_arches.architectures.CodeFormer import CodeFormerArch

            registry.add(package.ArchSupport.from_architecture(CodeFormerArch()))
    return registry


def _module_without(name: str) -> ModuleType:
    module = ModuleType(f"spandrel.architectures.{name}", "Left out: needs torchvision.")
    setattr(module, f"{name}Arch", lambda: _LeftOut(name))
    return module
