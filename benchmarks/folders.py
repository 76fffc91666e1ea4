"""Folders for what a benchmark leaves nobody."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def passing_folder(name: str) -> Path:
    """An empty one that goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
