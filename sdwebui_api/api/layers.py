"""The layers around every application of this program, the API's and the front end's."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from sdwebui_api.api.auth import AuthMiddleware, Doorkeeper
from sdwebui_api.api.call_log import observers
from sdwebui_api.api.gateway import Gateway
from sdwebui_api.api.middleware import BodyLimit, RequestLog, Subpath
from sdwebui_api.config.flags import Flags
from sdwebui_api.metrics import Metrics
from sdwebui_api.queueing.identity import REQUEST_ID_HEADER
from sdwebui_api.queueing.settings import DEFAULT_PATH

MAX_BODY_BYTES = 100 * 2**20


def layers(
    flags: Flags,
    metrics: Metrics,
    keeper: Doorkeeper,
    max_body_bytes: int = MAX_BODY_BYTES,
    *,
    synchronous: bool = False,
) -> list[Middleware]:
    """Outermost first. A preflight carries no credentials, so CORS stands outside of the log-in.

    `synchronous`: requests below `/api/predict/<service>` are answered at once, for there is no queue.
    """
    # An origin ends without a slash, but openOutpaint tells its users to write one.
    origins = [found for text in (flags.cors_allow_origins or "").split(",") if (found := text.strip().rstrip("/"))]
    subpath = (flags.subpath or "").strip("/")
    return [
        Middleware(Subpath, prefix=f"/{subpath}" if subpath else ""),
        Middleware(RequestLog, observers=observers(flags, metrics), show_time=flags.time_log),
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_origin_regex=flags.cors_allow_origins_regex,
            allow_methods=["*"],
            allow_headers=["*"],
            allow_credentials=True,
            # Chromium before 142 asks when a page from the internet calls this network. Refused, its preflight is a 400
            # and the call never comes; A1111's framework does not know the question and answers 200.
            allow_private_network=True,
            expose_headers=["X-Job-Id", "X-Request-Id", "Retry-After", REQUEST_ID_HEADER],
        ),
        Middleware(AuthMiddleware, keeper=keeper),
        Middleware(Gateway, synchronous=flags.service_name if synchronous else None, default_path=DEFAULT_PATH),
        Middleware(BodyLimit, limit=max_body_bytes),
    ]
