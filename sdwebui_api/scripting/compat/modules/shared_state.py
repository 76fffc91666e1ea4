"""`modules.shared_state`: `shared.state`, the progress of the running job."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.world import view

_IDLE = {
    "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_no": 0, "job_count": 0,
    "job_timestamp": "0", "sampling_step": 0, "sampling_steps": 0, "textinfo": None, "time_start": None,
    "current_latent": None, "current_image": None, "current_image_sampling_step": 0, "id_live_preview": 0,
    "need_restart": False, "server_command": None, "oom": False, "processing_has_refined_job_count": False,
}  # fmt: skip


class State:
    """Every attribute is the running job's. What scripts set beyond `job_count`, `textinfo` and the flags is kept
    for the job and seen by its scripts alone."""

    def __getattr__(self, name: str) -> Any:
        if name not in _IDLE:
            raise AttributeError(f"shared.state.{name} is not offered by this server")
        found = view()
        if found is None:
            return _IDLE[name]
        if name in found.attributes:
            return found.attributes[name]
        job = found.context.job
        if name == "stopping_generation":
            return job.interrupted
        if name == "time_start":
            return job.started
        progress = job.snapshot()
        return getattr(progress, name) if hasattr(progress, name) else _IDLE[name]

    def __setattr__(self, name: str, value: Any) -> None:
        found = view()
        if found is None:
            return
        job = found.context.job
        if name == "interrupted" and value:
            job.interrupt()
        elif name == "skipped":
            job.skip() if value else job.clear_skip()
        elif name == "job_count":
            found.context.set_total(int(value))
        elif name == "textinfo":
            job.set_text(value)
        else:
            found.attributes[name] = value

    def interrupt(self) -> None:
        self.interrupted = True

    def stop_generating(self) -> None:
        self.interrupted = True

    def skip(self) -> None:
        self.skipped = True

    def nextjob(self) -> None:
        found = view()
        if found is not None:
            found.context.job.next_part()

    def begin(self, job: str = "(unknown)") -> None:
        """A job has begun before any script runs."""

    def end(self) -> None:
        """It ends after the last one."""

    def assign_current_image(self, image: Any) -> None:
        """The preview that clients see until the next step."""
        found = view()
        if found is not None:
            job = found.context.job
            job.step(job.snapshot().sampling_step, lambda: image)

    def set_current_image(self) -> None:
        return

    def do_set_current_image(self) -> None:
        return

    def dict(self) -> dict[str, Any]:
        names = (
            "skipped",
            "interrupted",
            "job",
            "job_count",
            "job_timestamp",
            "job_no",
            "sampling_step",
            "sampling_steps",
        )
        return {name: getattr(self, name) for name in names}
