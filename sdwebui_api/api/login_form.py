"""What a visitor of the page sees who is not known yet: a form to log in with."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

LONGEST = 1000
"""Characters of a name, of a password or token, and of an address to go on to."""
TEXTS = {
    "en": ("Log in", "User", "Password or token", "Name and password do not belong together"),
    "zh": ("登录", "用户", "密码或令牌", "用户名与密码不匹配"),
}
GONE = {
    "en": "You are not logged in any more: load the page again",
    "zh": "您已退出登录：请重新加载页面",
}
"""For a page that was left open."""
STYLE = """
:root { color-scheme: light dark; font: 16px system-ui, sans-serif }
body { display: grid; min-height: 100vh; margin: 0; place-items: center;
  background: light-dark(#f4f4f5, #0b0f19); color: light-dark(#18181b, #f4f4f5) }
form { display: grid; gap: .75rem; width: min(20rem, 88vw); padding: 1.5rem; border-radius: .75rem;
  background: light-dark(#fff, #1f2937); box-shadow: 0 1px 6px #0003 }
h1 { font-size: 1.2rem; margin: 0 } label { display: grid; gap: .25rem; font-size: .9rem }
input, button { font: inherit; padding: .55rem .7rem; border-radius: .4rem; border: 1px solid #8886 }
button { border: 0; background: #ea580c; color: #fff; cursor: pointer } p { margin: 0; color: #dc2626 }
"""


def wants_form(scope: Scope) -> bool:
    """A browser that opens an address, not a program that calls one."""
    shown = "text/html" in Headers(scope=scope).get("accept", "")
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and shown


def login_form(
    scope: Scope, localization: str | None = None, *, target: str | None = None, wrong: bool = False
) -> Response:
    """`target`: where to go on to; None: the address that was asked for."""
    if target is None:
        query = scope.get("query_string", b"").decode("latin-1")
        target = quote(scope["path"], safe="/") + (f"?{query}" if query else "")
    title, user, password, problem = TEXTS[_language(scope, localization)]
    message = f'<p role="alert">{escape(problem)}</p>' if wrong else ""
    page = f"""<!doctype html><html><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<form method="post" action="{escape(scope.get("root_path", ""))}/login"><h1>{escape(title)}</h1>{message}
<label>{escape(user)}<input name="username" autocomplete="username" maxlength="{LONGEST}" autofocus></label>
<label>{escape(password)}<input name="password" type="password" autocomplete="current-password"
 maxlength="{LONGEST}" required></label>
<input type="hidden" name="next" value="{escape(target)}"><button>{escape(title)}</button></form></body></html>"""
    headers = {
        "Cache-Control": "no-store",
        # Nobody may lay the form into a page of theirs.
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'",
    }
    return HTMLResponse(page, 401, headers=headers)


def logged_out(scope: Scope, localization: str | None = None) -> str:
    """What a page that was left open tells a visitor who has logged out elsewhere."""
    return GONE[_language(scope, localization)]


def _language(scope: Scope, localization: str | None) -> str:
    accepted = localization or Headers(scope=scope).get("accept-language", "")
    return "zh" if accepted.lower().startswith("zh") else "en"
