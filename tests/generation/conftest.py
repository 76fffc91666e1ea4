"""The real generator in this process, on the golden checkpoint: a request of a few small steps takes a fraction of
a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from sdwebui_api.api.generation_schema import Img2ImgBody, Txt2ImgBody
from sdwebui_api.api.services import Services
from sdwebui_api.app import build
from sdwebui_api.config.options import Options
from sdwebui_api.generation.request import GenerationResult
from sdwebui_api.jobs.job import Job
from tests.support.fakes import GOLDEN, golden_flags

SMALL = {"prompt": "a red apple", "seed": 5, "subseed": 6, "steps": 3, "width": 64, "height": 64}


@dataclass(frozen=True)
class Studio:
    """A generator with all that belongs to it. `tiny-other` is `tiny-sd` with a VAE of its own beside it."""

    services: Services
    data_dir: Path

    def txt2img(self, options: Options | None = None, job: Job | None = None, **fields: Any) -> GenerationResult:
        return self._run("txt2img", Txt2ImgBody, options, job, fields)

    def img2img(self, options: Options | None = None, job: Job | None = None, **fields: Any) -> GenerationResult:
        return self._run("img2img", Img2ImgBody, options, job, fields)

    def _run(
        self,
        kind: Literal["txt2img", "img2img"],
        schema: type[Txt2ImgBody] | type[Img2ImgBody],
        options: Options | None,
        job: Job | None,
        fields: dict[str, Any],
    ) -> GenerationResult:
        body = schema.model_validate(SMALL | {"override_settings": {"randn_source": "CPU"}} | fields)
        request = self.services.resolver(kind, body.model_dump(), body.model_fields_set, options or Options())
        result: GenerationResult = self.services.generator.run(request, job or Job("test", kind))
        return result

    def files(self) -> list[str]:
        """Names of all saved files, without their numbers."""
        found = (path for path in (self.data_dir / "outputs").rglob("*") if path.is_file())
        return sorted(path.name.partition("-")[2] or path.name for path in found)


@pytest.fixture(scope="session")
def _services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    models = tmp_path_factory.mktemp("studio-models")
    checkpoints = models / "Stable-diffusion"
    checkpoints.mkdir()
    for entry in (GOLDEN / "models" / "Stable-diffusion").glob("tiny-sd.*"):
        for stem in ("tiny-sd", "tiny-other"):
            (checkpoints / (stem + entry.suffix)).symlink_to(entry)
    (checkpoints / "tiny-other.vae.safetensors").symlink_to(GOLDEN / "models" / "VAE" / "tiny-vae.safetensors")
    for kind in ("Lora", "hypernetworks", "ControlNet"):
        (models / kind).mkdir()
        for entry in (GOLDEN / "models" / kind).iterdir():
            (models / kind / entry.name).symlink_to(entry)
    flags = golden_flags(models / "data", "--models-dir", str(models), "--ckpt", "tiny-sd.safetensors")
    return build(flags)


@pytest.fixture
def studio(_services: Services, tmp_path: Path) -> Iterator[Studio]:
    from sdwebui_api.storage.local import LocalStorage

    generator: Any = _services.generator
    before, generator._storage = generator._storage, LocalStorage(tmp_path)
    yield Studio(_services, tmp_path)
    generator._storage = before
