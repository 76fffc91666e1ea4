"""The extension's own package, importable as its script finds it."""

from __future__ import annotations

import sys
from pathlib import Path

EXTENSION = Path(__file__).resolve().parents[2] / "extensions" / "beautiful_prompt"

if str(EXTENSION) not in sys.path:
    sys.path.append(str(EXTENSION))
