"""/docs: the routes with their fields, also for a browser that reaches this server alone."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

PAGE = Path(__file__).parent / "data" / "docs.html"


def docs_route() -> Route:
    """A list made of /openapi.json; Swagger UI, which stands elsewhere, takes its place where it can be fetched."""
    text = PAGE.read_text(encoding="utf-8")

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(text)

    return Route("/docs", docs, methods=["GET"], include_in_schema=False)
