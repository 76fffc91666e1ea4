"""`modules.shared_cmd_options`: the flags."""

from __future__ import annotations

from sdwebui_api.scripting.compat.modules.shared import cmd_opts

__all__ = ["cmd_opts"]
