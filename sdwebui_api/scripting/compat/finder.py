"""`import modules.shared` finds `sdwebui_api.scripting.compat.modules.shared`: one object under two names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "modules"
PROVIDED = f"{__package__}.modules"


class CompatFinder(MetaPathFinder):
    """Answers for `modules` and everything below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE and not fullname.startswith(f"{PACKAGE}."):
            return None
        ours = PROVIDED + fullname.removeprefix(PACKAGE)
        if importlib.util.find_spec(ours) is None:
            raise ModuleNotFoundError(
                f"{fullname} is not offered by this server: it belongs to the inside of A1111, not to what extensions "
                "can rely on here",
                name=fullname,
            )
        return importlib.util.spec_from_loader(fullname, _Alias(ours), is_package=True)


class _Alias(Loader):
    """Gives the module of another name, unchanged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; importing again must not make it forget its own name."""
        module.__spec__ = self._spec


class LdmFinder(MetaPathFinder):
    """`ldm`, where nobody installed it: comes after all other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "ldm":
            return None
        from sdwebui_api.scripting.compat import ldm

        module = ldm.make_module(fullname)
        if module is None:
            raise ModuleNotFoundError(
                f"{fullname} is not offered by this server: it is code of the model that A1111 keeps beside itself, "
                "and the model here is another's",
                name=fullname,
            )
        return importlib.util.spec_from_loader(fullname, _Made(module), is_package=True)


class _Made(Loader):
    """Gives a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """It holds what it holds."""


def install() -> None:
    """Idempotent. Before the other finders, so that a folder `modules` somewhere on the path is not taken for it."""
    if not any(isinstance(finder, CompatFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, CompatFinder())
        sys.meta_path.append(LdmFinder())
