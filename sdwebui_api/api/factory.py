"""The API as one ASGI application: routers, error answers, and the layers around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from sdwebui_api import __version__
from sdwebui_api.api import (
    control,
    controlnet,
    generation,
    images,
    job_routes,
    listings,
    merging,
    network_pictures,
    options,
    progress,
    training,
)
from sdwebui_api.api.auth import Doorkeeper
from sdwebui_api.api.docs_page import docs_route
from sdwebui_api.api.errors import install_error_handlers
from sdwebui_api.api.layers import MAX_BODY_BYTES, layers
from sdwebui_api.api.metrics import families_of_server, metrics_route
from sdwebui_api.api.queue import callback_check
from sdwebui_api.api.services import Services
from sdwebui_api.api.user_view import UserView
from sdwebui_api.queueing.routes import queue_routes


def create_app(services: Services, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """Every route of this server, answered from `services`. Raises NotFound and BadRequest for unusable log-ins."""
    keeper = Doorkeeper(services.flags)
    synchronous = services.queue is None
    inner = [Middleware(UserView, server=services)] if services.views is not None else []
    app = FastAPI(
        title="sdwebui_api",
        version=__version__,
        description="A Stable Diffusion server that answers the clients of the A1111 WebUI.",
        # A1111 reads JSON also from clients that send no content type.
        strict_content_type=False,
        docs_url=None,  # FastAPI's is empty where the browser has no internet
        middleware=[
            *layers(services.flags, services.metrics, keeper, max_body_bytes, synchronous=synchronous),
            *inner,
        ],
        lifespan=_lifespan(services),
    )
    app.state.services = services
    app.state.keeper = keeper
    install_error_handlers(app)
    for room in (generation, images, progress, job_routes, options, listings, merging, training, controlnet, control):
        app.include_router(room.router)
    app.include_router(network_pictures.router)
    app.include_router(control.health_router)
    if services.flags.api_server_stop:
        app.include_router(control.stop_router)
    if services.flags.add_stop_route:
        app.include_router(control.plain_stop_router)
    app.router.routes.append(docs_route())
    app.router.routes.append(metrics_route(services.metrics, lambda: families_of_server(services)))
    if services.queue is not None:
        app.router.routes.extend(
            queue_routes(services.queue, callback_check(services.flags), per_user=services.flags.cluster)
        )
    # Last, so that an extension's routes cannot take the place of ours.
    services.scripts.app_started(app)
    return app


def _lifespan(services: Services) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The queue and its companions live as long as the application is served."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if services.queue is not None:
                await stack.enter_async_context(services.queue.running())
            for companion in services.companions:
                await stack.enter_async_context(companion(app))
            yield

    return lifespan
