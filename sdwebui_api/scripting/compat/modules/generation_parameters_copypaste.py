"""`modules.generation_parameters_copypaste`: the old name of `infotext_utils`."""

from __future__ import annotations

from sdwebui_api.scripting.compat.modules.infotext_utils import *  # noqa: F403
