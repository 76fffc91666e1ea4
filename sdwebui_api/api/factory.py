"""The API as one ASGI application: routers, error answers, and the layers around them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from sdwebui_api import __version__
from sdwebui_api.api import (
    control,
    controlnet,
    generation,
    images,
    job_routes,
    listings,
    merging,
    options,
    progress,
    training,
)
from sdwebui_api.api.auth import AuthMiddleware, Credentials
from sdwebui_api.api.errors import install_error_handlers
from sdwebui_api.api.middleware import BodyLimit, RequestLog, Subpath
from sdwebui_api.api.services import Services

MAX_BODY_BYTES = 100 * 2**20


def create_app(services: Services, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """Every route of this server, answered from `services`."""
    app = FastAPI(
        title="sdwebui_api",
        version=__version__,
        description="A Stable Diffusion server that answers the clients of the A1111 WebUI.",
        # A1111 reads JSON also from clients that send no content type.
        strict_content_type=False,
        middleware=_layers(services, max_body_bytes),
    )
    app.state.services = services
    install_error_handlers(app)
    for room in (generation, images, progress, job_routes, options, listings, merging, training, controlnet, control):
        app.include_router(room.router)
    app.include_router(control.health_router)
    if services.flags.api_server_stop:
        app.include_router(control.stop_router)
    # Last, so that an extension's routes cannot take the place of ours.
    services.scripts.app_started(app)
    return app


def _layers(services: Services, max_body_bytes: int) -> list[Middleware]:
    """Outermost first. A preflight carries no credentials, so CORS stands outside of the log-in."""
    flags = services.flags
    origins = [origin.strip() for origin in (flags.cors_allow_origins or "").split(",") if origin.strip()]
    subpath = (flags.subpath or "").strip("/")
    return [
        Middleware(Subpath, prefix=f"/{subpath}" if subpath else ""),
        Middleware(RequestLog, log_all=flags.api_log, log_time=flags.time_log),
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_origin_regex=flags.cors_allow_origins_regex,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_credentials=True,
            expose_headers=["X-Job-Id", "X-Request-Id", "Retry-After"],
        ),
        Middleware(AuthMiddleware, credentials=Credentials(flags.api_auth, flags.token)),
        Middleware(BodyLimit, limit=max_body_bytes),
    ]
