"""From what clients write to rows of `SAMPLERS` and `SCHEDULES`.

Letter case does not matter, aliases count, and the names of before A1111 1.9 ("DPM++ 2M Karras", "LMS Karras") are
split into sampler and schedule. Unknown names raise.

`lenient` is A1111 to the letter (`sd_samplers.get_sampler_and_scheduler`): only exact names count, and everything else,
aliases and other letter case included, silently is DPM++ 2M or Automatic.
"""

from __future__ import annotations

from sdwebui_api.errors import BadRequest
from sdwebui_api.sampling.samplers import SAMPLERS, Sampler
from sdwebui_api.sampling.schedules import AUTOMATIC, MODEL_SIGMAS, SCHEDULES, Schedule

_SAMPLERS = {name.lower(): row for row in SAMPLERS for name in (row.name, *row.aliases)}
_SCHEDULES = {name.lower(): row for row in SCHEDULES for name in (row.label, row.name, *(row.aliases or ()))}
_EXACT_SAMPLERS = {row.name: row for row in SAMPLERS}
_EXACT_SCHEDULES = {name: row for row in SCHEDULES for name in (row.label, row.name)}
SAMPLER_NAMES = tuple(row.name for row in SAMPLERS)
SCHEDULE_LABELS = tuple(row.label for row in SCHEDULES)


def split_combined_name(text: str) -> tuple[str, Schedule | None]:
    """("DPM++ 2M Karras") -> ("DPM++ 2M", the Karras row); no schedule at the end: (text, None).

    A name that is a sampler's as it stands is not split. The `_ka` of old aliases ("k_dpmpp_2m_ka") is Karras too.
    """
    name = text.strip()
    lowered = name.lower()
    if lowered in _SAMPLERS:
        return name, None
    if lowered.endswith("_ka") and lowered[:-3] in _SAMPLERS:
        return name[:-3], _SCHEDULES["karras"]
    for ending in sorted(_SCHEDULES, key=len, reverse=True):
        if lowered.endswith(" " + ending):
            return name[: -len(ending)].rstrip(), _SCHEDULES[ending]
    return name, None


def find_sampler(text: str | None, *, lenient: bool = False, field: str = "sampler_name") -> Sampler:
    """The sampler row that `text` names, combined names included.

    Raises:
        BadRequest: 400 "Sampler not found" with the choices. With `lenient`: the first row (DPM++ 2M) instead.
    """
    name = split_combined_name(text)[0] if text else ""
    if lenient:
        return _EXACT_SAMPLERS.get(name, SAMPLERS[0])
    row = _SAMPLERS.get(name.lower())
    if row is None:
        raise BadRequest(f"Sampler not found: {text!r}", field=field, choices=SAMPLER_NAMES, status=400)
    return row


def find_schedule(text: str | None, *, lenient: bool = False, field: str = "scheduler") -> Schedule:
    """The schedule row that `text` names by name, label or alias; None and "" are Automatic.

    The label of `MODEL_SIGMAS`, which only `resolve_names` gives out, is that one.

    Raises:
        BadRequest: 400 "Scheduler not found" with the choices. With `lenient`: Automatic instead.
    """
    if not text:
        return AUTOMATIC
    if text == MODEL_SIGMAS.label:
        return MODEL_SIGMAS
    if lenient:
        return _EXACT_SCHEDULES.get(text, AUTOMATIC)
    row = _SCHEDULES.get(text.strip().lower())
    if row is None:
        raise BadRequest(f"Scheduler not found: {text!r}", field=field, choices=SCHEDULE_LABELS, status=400)
    return row


def resolve_names(
    sampler: str | None,
    schedule: str | None = None,
    *,
    lenient: bool = False,
    sampler_field: str = "sampler_name",
    schedule_field: str = "scheduler",
    hires_pass: bool = False,
) -> tuple[Sampler, Schedule]:
    """Sampler and schedule of a request. An explicit schedule wins over one inside the sampler's name.

    As in A1111's API (`sd_samplers.get_sampler_and_scheduler`), a schedule that is the sampler's own preference
    becomes Automatic; the infotext then names it all the same. The name "automatic" is Automatic too, but A1111 does
    not look at `hr_scheduler` before it is used: there, with `hires_pass`, it is `MODEL_SIGMAS`.
    """
    row = find_sampler(sampler, lenient=lenient, field=sampler_field)
    if hires_pass and schedule == AUTOMATIC.name:
        chosen = MODEL_SIGMAS
    elif schedule:
        chosen = find_schedule(schedule, lenient=lenient, field=schedule_field)
    else:
        chosen = (split_combined_name(sampler)[1] if sampler else None) or AUTOMATIC
    return row, (AUTOMATIC if row.schedule == chosen.name else chosen)
