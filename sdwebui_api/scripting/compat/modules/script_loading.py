"""`modules.script_loading`: running a file by its path."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

loaded_scripts: dict[str, Any] = {}


def load_module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module
