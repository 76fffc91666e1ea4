"""The layer that looks up what the caller of `--cluster` sees."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from sdwebui_api.api.errors import error_response
from sdwebui_api.api.services import VIEW, Services
from sdwebui_api.errors import SdWebUIError


class UserView:
    """Innermost: every route finds the view of its caller in the scope, made beside the event loop."""

    def __init__(self, app: ASGIApp, server: Services) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user, views = scope.get("state", {}).get("user"), self.server.views
        if user is not None and views is not None:
            try:
                scope["state"][VIEW] = views.known(user) or await self.server.off_loop(views, user)
            except SdWebUIError as error:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
