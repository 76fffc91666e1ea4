"""`modules.sd_hijack`: the embeddings. A1111's patches of its model have no counterpart."""

from __future__ import annotations

from typing import Any

from sdwebui_api.scripting.compat.models import SD_MODEL
from sdwebui_api.scripting.compat.world import NotOffered, view


class _EmbeddingDb:
    @property
    def word_embeddings(self) -> dict[str, Any]:
        """Those that fit the running job's model; none outside of jobs."""
        found = view()
        return dict(found.model.embeddings.loaded) if found is not None and found.model is not None else {}

    @property
    def skipped_embeddings(self) -> dict[str, Any]:
        found = view()
        return dict(found.model.embeddings.skipped) if found is not None and found.model is not None else {}

    def load_textual_inversion_embeddings(self, force_reload: bool = False) -> None:
        """They are looked for when a job begins."""


class _ModelHijack:
    embedding_db = _EmbeddingDb()
    comments: list[str] = []  # noqa: RUF012  # A1111's form
    clip = None

    def get_prompt_lengths(self, text: str) -> tuple[int, int]:
        return SD_MODEL.cond_stage_model.get_prompt_lengths(text)

    def __getattr__(self, name: str) -> Any:
        raise NotOffered(f"sd_hijack.model_hijack.{name} is not offered: the model is not patched here")


model_hijack = _ModelHijack()
