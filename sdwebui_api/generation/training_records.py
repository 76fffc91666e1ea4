"""What a training writes while it runs: losses, settings, copies, previews. Each run has a folder of its own."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdwebui_api.engine.training.loop import StepReport
from sdwebui_api.errors import not_stored
from sdwebui_api.storage.local import LocalStorage


class RunFolder:
    """`<log_directory>/<date>/<name>`, numbered when there is one already; made when something is first written."""

    def __init__(self, parent: Path, name: str, storage: LocalStorage) -> None:
        self._day = parent / time.strftime("%Y-%m-%d")
        self._name = name
        self._storage = storage
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = self._make()
        return self._folder

    def _make(self) -> Path:
        number = 1
        while True:
            folder = self._day / (self._name if number == 1 else f"{self._name}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
            except OSError as error:
                raise not_stored(folder.name, folder.parent, error) from error

    def save(self, name: str, data: bytes) -> Path:
        """`name` may have a folder in it."""
        return self._storage.save(self.folder / name, data)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        lines = [f"{key}: {value}" for key, value in settings.items()]
        self.save(f"settings-{time.strftime('%Y-%m-%d-%H-%M-%S')}.txt", ("\n".join(lines) + "\n").encode())

    def add_loss(self, file_name: str, report: StepReport, epoch_length: int) -> None:
        """A row with A1111's columns."""
        path = self.folder / file_name
        columns = {
            "step": report.step,
            "epoch": report.epoch,
            "epoch_step": (report.step - 1) % max(epoch_length, 1),
            "loss": f"{report.loss:.7f}",
            "learn_rate": report.rate,
        }
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        if not path.exists():
            writer.writeheader()
        writer.writerow(columns)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())

    def discard(self) -> None:
        """Nothing of this run is left."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        with suppress(OSError):  # other runs of the day are in it, or it was never made
            self._day.rmdir()
