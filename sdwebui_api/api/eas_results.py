"""Where the pictures of a request answered by address go, and the answer once they lie there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sdwebui_api.api.eas_answer import EasCall, success
from sdwebui_api.api.eas_extras import Extras
from sdwebui_api.api.services import Services
from sdwebui_api.errors import BadRequest
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.generation.result_files import ResultPicture, result_pictures, seeds_of
from sdwebui_api.storage.roots import Target


@dataclass(frozen=True)
class Delivery:
    """How one request's results leave."""

    call: EasCall
    target: Target
    saves: bool
    """`save_images` without `save_dir`: what the output settings have saved is not written again."""
    must: bool
    """False: where the output settings saved nothing, A1111's answer is given."""

    def wanted(self, request: GenerationRequest, *, grid: bool) -> GenerationRequest:
        """`request` with the grid made for the answer: A1111's API makes it with `save_images` alone."""
        options = request.options
        grid = grid and (options.return_grid or options.grid_save)
        saved_too = options.grid_save and not request.do_not_save_grid
        options = options.with_values({"return_grid": grid, "grid_save": saved_too})
        return replace(request, options=options, do_not_save_grid=not grid)

    async def answer(
        self, services: Services, request: GenerationRequest, result: GenerationResult, info: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """None: A1111's form is to be given. Raises NotStored."""
        if not self.must and not any(image.saved_path for image in result.images):
            return None
        pictures = await services.off_loop(self._pictures, request, result)
        addresses = await self._addresses(services, pictures)
        shown = list(zip(addresses, pictures, strict=True))
        urls = [address for address, picture in shown if not picture.is_map]
        masks = [address for address, picture in shown if picture.is_map]
        return success(self.call, urls, seeds_of(result), masks, info)

    def _pictures(self, request: GenerationRequest, result: GenerationResult) -> list[ResultPicture]:
        return result_pictures(request, result, reuse_saved=self.saves)

    async def _addresses(self, services: Services, pictures: list[ResultPicture]) -> list[str]:
        assert services.results is not None
        files = [picture.file for picture in pictures if picture.file is not None]
        written = iter(await services.results.write(self.target, files))
        return [picture.saved_path or next(written) for picture in pictures]


def owing(services: Services, delivery: Delivery | None) -> AbstractContextManager[None]:
    """Around a request while its results are to come: a server that stops waits for them."""
    if delivery is None or services.results is None:
        return nullcontext()
    return services.results.owed()


def delivery(services: Services, call: EasCall | None, extras: Extras, *, save_images: bool) -> Delivery | None:
    """None: A1111's form. Looks at the disk. Raises BadRequest for a `save_dir` that may not or cannot be used."""
    if call is None:
        return None
    field = "alwayson_scripts.save_dir"
    if services.results is None:
        if extras.save_dir:
            raise BadRequest("this server writes no results", field=field)
        return None
    roots = services.results.roots
    target = roots.target(extras.save_dir, field) if extras.save_dir else roots.default()
    return Delivery(call, target, saves=save_images and not extras.save_dir, must=call.queued or bool(extras.save_dir))
