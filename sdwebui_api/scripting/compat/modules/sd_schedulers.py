"""`modules.sd_schedulers`: the table of schedules (name, label, default_rho …)."""

from __future__ import annotations

from sdwebui_api.scripting.compat.samplers import schedule_rows

schedulers = schedule_rows()
schedulers_map = {name: row for row in schedulers for name in (row.name, row.label)}
