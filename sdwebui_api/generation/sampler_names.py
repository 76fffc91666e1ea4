"""Names of samplers and schedules for `resolve` and for the listings of the API."""

from __future__ import annotations

from typing import Any

from sdwebui_api.sampling.names import resolve_names
from sdwebui_api.sampling.samplers import SAMPLERS
from sdwebui_api.sampling.schedules import SCHEDULES


class SamplingNames:
    """The server's way to read such names: strictly, or with `--lenient` as A1111 does."""

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    def __call__(
        self,
        sampler: str,
        schedule: str | None,
        *,
        sampler_field: str = "sampler_name",
        schedule_field: str = "scheduler",
    ) -> tuple[str, str]:
        """(sampler name, schedule label). Raises BadRequest with the choices, naming one of the fields."""
        row, chosen = resolve_names(
            sampler,
            schedule,
            lenient=self._lenient,
            sampler_field=sampler_field,
            schedule_field=schedule_field,
            hires_pass=schedule_field == "hr_scheduler",
        )
        return row.name, chosen.label


def sampler_rows() -> list[dict[str, Any]]:
    """The answer of GET /samplers."""
    return [row.row() for row in SAMPLERS]


def schedule_rows() -> list[dict[str, Any]]:
    """The answer of GET /schedulers."""
    return [row.row() for row in SCHEDULES]
