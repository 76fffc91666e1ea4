"""The layer around the page that puts the texts of the reader's language in place of the marks of `t`.

It sees what the page answers: the page itself (HTML with its configuration in a script), JSON, and the stream of
events by which handlers change the page. Files pass through untouched. Long answers leave it compressed: the page is
nearly a megabyte of text, of which gzip leaves a twentieth.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdwebui_api.webui.localization.choice import browser_tag
from sdwebui_api.webui.localization.marks import MARKS, Translate, resolve_json

EVENTS = "text/event-stream"
WHOLE = ("text/html", "application/json")
COMPRESSED_FROM, LEVEL = 16_384, 4
"""Bytes; gzip's effort, 10 ms for the page."""

LanguageOf = Callable[[Scope], str]
"""The language of the reader who sends this request."""
HeadOf = Callable[[Scope], str]


class LanguageLayer:
    def __init__(
        self, app: ASGIApp, translate: Callable[[str, str], str], language_of: LanguageOf, head: HeadOf
    ) -> None:
        """translate: (English text, language) → text; head: HTML for the end of the head of every page."""
        self._app = app
        self._translate = translate
        self._language_of = language_of
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        language = self._language_of(scope)
        accepted = "gzip" in Headers(scope=scope).get("accept-encoding", "")
        answer = _Answer(
            send, language, lambda text: self._translate(text, language), lambda: self._head(scope), compress=accepted
        )
        await self._app(scope, receive, answer.send)


class _Answer:
    """One answer on its way out. Its start waits for the first part of the body, which may change its length."""

    def __init__(
        self, send: Send, language: str, translate: Translate, head: Callable[[], str], *, compress: bool
    ) -> None:
        self._send = send
        self._language = language
        self._translate = translate
        self._head = head
        self._compress = compress
        self._start: Message | None = None
        self._kind = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._kind = Headers(raw=message["headers"]).get("content-type", "").partition(";")[0].strip()
            self._start = message
            if self._kind not in WHOLE:
                await self._send_start()
        elif message["type"] == "http.response.body":
            await self._send_body(message)
        else:
            await self._send(message)

    async def _send_body(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        whole = self._start is not None and not message.get("more_body", False)
        if body and (whole or self._kind == EVENTS):
            message = {**message, "body": self._spoken(body)}
        if self._start is not None:
            if whole and body:
                message = self._packed(message, MutableHeaders(raw=self._start["headers"]))
            await self._send_start()
        await self._send(message)

    def _packed(self, message: Message, headers: MutableHeaders) -> Message:
        """With the headers of what is sent in the end."""
        if self._compress and len(message["body"]) >= COMPRESSED_FROM and "content-encoding" not in headers:
            message = {**message, "body": gzip.compress(message["body"], LEVEL)}
            headers["content-encoding"] = "gzip"
            headers.add_vary_header("Accept-Encoding")
        if "content-length" in headers:
            headers["content-length"] = str(len(message["body"]))
        return message

    async def _send_start(self) -> None:
        start, self._start = self._start, None
        if start is not None:
            await self._send(start)

    def _spoken(self, body: bytes) -> bytes:
        page = self._kind == "text/html"
        if not page and not any(mark in body for mark in MARKS):  # most events: previews, which are long
            return body
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return body
        if page:
            text = _with_head(text, self._language, self._head())
        return resolve_json(text, self._translate).encode()


def _with_head(html: str, language: str, head: str) -> str:
    """The page says its language, to the browser and to gradio's own texts (which go by `navigator.language`)."""
    tag = json.dumps(browser_tag(language))
    speaks = (
        f"<script>for (const [name, value] of [['language', {tag}], ['languages', [{tag}]]])"
        " Object.defineProperty(navigator, name, {get: () => value, configurable: true});</script>"
    )
    html = html.replace('lang="en"', f"lang={tag}", 1)
    # Behind gradio's configuration, before its program, which is a module and waits for the whole page.
    return html.replace("</head>", f"{speaks}{head}</head>", 1)
