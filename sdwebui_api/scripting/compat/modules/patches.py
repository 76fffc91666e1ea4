"""`modules.patches`: replacing a function of an object under a key, and taking that back."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import world


def _originals() -> dict[Any, dict[tuple[int, str], Any]]:
    """key → (object, field) → what stood there."""
    found: dict[Any, dict[tuple[int, str], Any]] = world().__dict__.setdefault("patched_originals", {})
    return found


def patch(key: Any, obj: Any, field: str, replacement: Any) -> Any:
    """Returns what stood there. Raises RuntimeError where the same key has patched it already."""
    known = _originals().setdefault(key, {})
    if (id(obj), field) in known:
        raise RuntimeError(f"patch for {field} is already applied")
    own = known[id(obj), field] = getattr(obj, field)
    setattr(obj, field, replacement)
    return own


def undo(key: Any, obj: Any, field: str) -> None:
    """Raises RuntimeError where the key has not patched it."""
    known = _originals().get(key, {})
    if (id(obj), field) not in known:
        raise RuntimeError(f"there is no patch for {field} to undo")
    setattr(obj, field, known.pop((id(obj), field)))


def original(key: Any, obj: Any, field: str) -> Any:
    """What stood there before; None where the key has not patched it."""
    return _originals().get(key, {}).get((id(obj), field))
