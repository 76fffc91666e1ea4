"""Scripts of A1111 keep a request's state on themselves; here two requests may run at once.

A script made job-local has its attributes set per job: what a job sets is seen by that job alone, and is the script's
for good when the job ends (A1111, one after the other, does the same). Values that are changed in place, such as a
list that is appended to, are still shared.
"""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import JobView, view

_GONE = object()


class _JobLocal:
    """Attributes as the running job sees them."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            own = _state(self)
            if own is not None and name in own:
                if own[name] is _GONE:
                    raise AttributeError(name)
                return own[name]
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        found = view()
        if found is None or isinstance(getattr(type(self), name, None), property):
            super().__setattr__(name, value)
        else:
            found.script_state.setdefault(id(self), {})[name] = value

    def __delattr__(self, name: str) -> None:
        found = view()
        if found is None:
            super().__delattr__(name)
            return
        getattr(self, name)
        found.script_state.setdefault(id(self), {})[name] = _GONE


def _state(script: Any) -> dict[str, Any] | None:
    found = view()
    return found.script_state.get(id(script)) if found is not None else None


def make_job_local(script: Any) -> None:
    """From now on; the object stays the same, so that closures and bound methods that know it see the job's state."""
    own = type(script)
    script.__class__ = type(own.__name__, (_JobLocal, own), {"__module__": own.__module__, "__doc__": own.__doc__})


def keep_state(found: JobView, scripts: list[Any]) -> None:
    """The job ends: what it set stays set. Call outside of the job's view."""
    for script in scripts:
        for name, value in found.script_state.get(id(script), {}).items():
            if value is not _GONE:
                setattr(script, name, value)
            elif name in vars(script):
                delattr(script, name)
