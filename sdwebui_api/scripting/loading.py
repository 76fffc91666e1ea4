"""Running script files, and finding our `Script` classes in them."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sdwebui_api.scripting.extensions import ScriptFile
from sdwebui_api.scripting.hooks import Script
from sdwebui_api.scripting.page_hooks import PageTab

_A1111_IMPORT = re.compile(r"^\s*(?:from|import)\s+modules\b", re.MULTILINE)


def needs_legacy(file: ScriptFile) -> bool:
    """Whether the file, or a package beside it that it may import, is written for A1111's `modules`.

    Everything of an extension that uses `modules` anywhere is loaded with it.
    """
    if file.extension is None:
        return _uses_modules(file.path)
    return any(_uses_modules(path) for path in file.base.rglob("*.py"))


def _uses_modules(path: Path) -> bool:
    try:
        return _A1111_IMPORT.search(path.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False


@dataclass(frozen=True)
class NativeFile:
    """What a file of ours brings."""

    scripts: Sequence[Script] = ()
    app_started: Callable[[Any], None] | None = None
    """`app_started(app)`: the application with all of our routes exists."""
    page_tab: Callable[[], PageTab] | None = None


def load_native_file(file: ScriptFile) -> NativeFile:
    """One instance of every `Script` that the file itself defines, and its hooks. Raises what the file raises."""
    module = run_file(file, f"sdwebui_scripts.{_identifier(file)}")
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Script)]
    scripts = [made() for made in classes if made.__module__ == module.__name__ and made.title]
    return NativeFile(scripts, getattr(module, "app_started", None), getattr(module, "page_tab", None))


def run_file(file: ScriptFile, name: str) -> ModuleType:
    """Imports the file as the module `name`; while it runs, imports find the folders of its extension first."""
    spec = importlib.util.spec_from_file_location(name, file.path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    with on_import_path(file.base):
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextmanager
def on_import_path(folder: Path) -> Iterator[None]:
    """`import` looks into `folder` first."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _identifier(file: ScriptFile) -> str:
    owner = file.extension.name if file.extension else ""
    return re.sub(r"\W+", "_", f"{owner}_{file.path.stem}".strip("_"))
