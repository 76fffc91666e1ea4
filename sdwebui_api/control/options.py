"""The ControlNet extension's settings that mean something here, under its names and with its defaults."""

from __future__ import annotations

from sdwebui_api.config.option_table import OptionSpec

CONTROL_OPTIONS = {
    "control_net_unit_count": OptionSpec("whole", 3, 1, 10),
    "control_net_no_detectmap": OptionSpec("switch", False),
    "control_net_inpaint_blur_sigma": OptionSpec("whole", 7, 1, 64),
}
"""Units that are sent are all used, however many `control_net_unit_count` shows."""
