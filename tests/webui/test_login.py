"""Who may open the page, and which addresses stay the API's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from sdwebui_api.api.accounts import Accounts
from sdwebui_api.api.sessions import KEPT_SECONDS, EndedSessions, Sessions, session_key
from sdwebui_api.api.tokens import Tokens
from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.page import mount_page
from tests.file_browser.conftest import fill, services_with_browser
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread

HTML = {"Accept": "text/html"}
SAMPLERS = "/sdapi/v1/samplers"


def accounts(token: str | None = None, **flags: str) -> Accounts:
    return Accounts(Flags(**flags), Tokens(token, None))


def test_pairs_of_all_flags_and_of_the_file(tmp_path):
    file = tmp_path / "users.txt"
    file.write_text("carol:c:3\ndave:4\n")
    found = accounts("secret", gradio_auth="ann:1, bob:2", gradio_auth_path=str(file), api_auth="eve:5")
    for name, password in (("ann", "1"), ("bob", "2"), ("carol", "c:3"), ("dave", "4"), ("eve", "5")):
        assert found.check(name, password) == name
    assert found.check("", "secret") == "token"
    for name, password in (("ann", "2"), ("", ""), ("mallory", "1"), ("ann", "secret"), ("ann:1", "")):
        assert found.check(name, password) is None


@pytest.mark.parametrize("flags", [{"gradio_auth": "secret"}, {"gradio_auth_path": "/nowhere/users"}])
def test_a_flag_that_holds_no_pair_is_refused(flags):
    with pytest.raises(BadRequest, match="gradio-auth"):
        accounts(**flags)


def sessions_of(folder: Path, key: bytes = b"key", **flags: str) -> Sessions:
    return Sessions(accounts(**flags), key, EndedSessions(folder / "ended"))


def cookie_scope(cookie: str) -> dict:
    return {"type": "http", "headers": [(b"cookie", f'odd; {cookie.partition(";")[0]}; x="'.encode())]}


def test_a_cookie_is_good_until_the_password_changes(tmp_path):
    key = session_key(tmp_path / "cache" / "key")
    assert session_key(tmp_path / "cache" / "key") == key and (tmp_path / "cache" / "key").stat().st_mode & 0o77 == 0
    cookie = sessions_of(tmp_path, key, gradio_auth="änn:1").opened("änn", {"scheme": "https"})
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Secure" in cookie
    assert sessions_of(tmp_path, key, gradio_auth="änn:1").user(cookie_scope(cookie)) == "änn"
    assert sessions_of(tmp_path, key, gradio_auth="änn:2").user(cookie_scope(cookie)) is None
    assert sessions_of(tmp_path, b"another", gradio_auth="änn:1").user(cookie_scope(cookie)) is None


def test_a_cookie_is_good_until_somebody_logs_out_with_it(tmp_path, monkeypatch):
    sessions = sessions_of(tmp_path, gradio_auth="ann:1")
    cookie, other = sessions.opened("ann", {}), sessions.opened("ann", {})
    sessions.closed(cookie_scope(cookie))
    again = sessions_of(tmp_path, gradio_auth="ann:1")  # after a restart, or another server
    for one in (sessions, again):
        assert one.user(cookie_scope(cookie)) is None and one.user(cookie_scope(other)) == "ann"
    assert len(list((tmp_path / "ended").iterdir())) == 1
    later = time.time() + KEPT_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    sessions_of(tmp_path, gradio_auth="ann:1")
    assert not list((tmp_path / "ended").iterdir())  # what has expired need not be remembered


def test_a_log_out_holds_where_nothing_can_be_written(tmp_path):
    (tmp_path / "ended").write_text("in the way")
    sessions = sessions_of(tmp_path, gradio_auth="ann:1")
    cookie = sessions.opened("ann", {})
    assert sessions.user(cookie_scope(cookie)) == "ann"
    sessions.closed(cookie_scope(cookie))
    assert sessions.user(cookie_scope(cookie)) is None


def test_a_log_out_ends_nothing_that_is_not_proven(tmp_path):
    sessions = sessions_of(tmp_path, gradio_auth="ann:1")
    cookie = sessions.opened("ann", {})
    sessions.closed(cookie_scope(cookie.replace(";", "0;", 1)))
    assert sessions.user(cookie_scope(cookie)) == "ann" and not (tmp_path / "ended").exists()


def test_a_cookie_cannot_be_made_or_changed(tmp_path):
    sessions = sessions_of(tmp_path, gradio_auth="ann:1,bob:1")
    name, _, value = sessions.opened("ann", {}).partition(";")[0].partition("=")
    user, expires, id, seal = value.split(".")
    for forged in ("", "..", "...", f"Ym9i.{expires}.{id}.{seal}", f"{user}.99999999999.{id}.{seal}",
                   f"{user}.1.{id}.{seal}", f"{user}.-1.{id}.x", f"!.{expires}.{id}.{seal}", f"{user}.{expires}.{id}.",
                   f"{user}.{expires}.{id}.ü", f"{user}.{expires}.{id[::-1]}.{seal}", f"{user}.{expires}.{seal}",
                   f"{user}.{expires}.../../x.{seal}"):  # fmt: skip
        scope = {"type": "http", "headers": [(b"cookie", f"{name}={forged}".encode())]}
        assert sessions.user(scope) is None, forged


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    services = services_with_browser(fill(tmp_path_factory.mktemp("login")), "--filebrowser", "--gradio-auth", "ann:1")
    with run_in_thread(services, mount_page) as address:
        yield address
    services.runner.drain(5)


def test_the_page_asks_for_the_log_in_and_the_api_does_not(address):
    assert httpx.get(f"{address}/config", timeout=60).status_code == 401
    form = httpx.get(address, headers=HTML, timeout=60)
    assert form.status_code == 401 and 'name="password"' in form.text
    assert "密码" in httpx.get(address, headers={**HTML, "Accept-Language": "zh-CN"}, timeout=60).text
    assert httpx.get(address + SAMPLERS, timeout=60).status_code == 200


def test_the_log_in_opens_the_page_and_the_file_browser(address):
    files = "/file_browser/v1/list"
    with httpx.Client(base_url=address, timeout=60) as browser:
        assert browser.get(files).status_code == 401
        assert browser.post("/login", data={"username": "ann", "password": "2"}).status_code == 400
        assert browser.post("/login", data={"username": "ann", "password": "1"}).status_code == 200
        assert browser.get("/config").status_code == 200 and browser.get(files).status_code == 200
        assert browser.get("/", headers=HTML).status_code == 200
        copied = dict(browser.cookies)
        assert browser.get("/logout").status_code == 303
        assert browser.get("/config").status_code == 401 and browser.get(files).status_code == 401
    with httpx.Client(base_url=address, timeout=60, cookies=copied) as thief:
        assert thief.get("/config").status_code == 401


@pytest.mark.parametrize(
    "asked, shown",
    [("/?a=b", "/?a=b"), ("//evil.example", "/"), ("https://evil.example", "/"), ("/\\evil.example", "/"), ("", "/")],
)
def test_a_log_in_goes_on_within_this_server(address, asked, shown):
    fields = {"username": "ann", "password": "1", "next": asked}
    answer = httpx.post(f"{address}/login", data=fields, headers=HTML, timeout=60)
    assert (answer.status_code, answer.headers["location"]) == (303, shown)


@pytest.mark.parametrize(
    "method, path, status",
    [("GET", "/sdapi/v1/nothing", 404), ("GET", "/sdapi/v1/txt2img", 405), ("POST", "/controlnet/version", 405)],
)
def test_addresses_of_the_api_stay_its_own(address, method, path, status):
    answer = httpx.request(method, address + path, timeout=60)
    assert answer.status_code == status
    assert set(answer.json()) >= {"error", "detail", "body", "errors"}


def test_a_browser_can_log_in_with_a_token(tmp_path):
    """The page itself plays no part: everything behind the doorkeeper is asked alike."""
    from sdwebui_api.api.factory import create_app
    from sdwebui_api.api.login_routes import login_routes

    app = create_app(fake_services(tmp_path, "--token", "s3cret"))
    app.router.routes[:0] = login_routes(app.state.keeper)

    async def visit() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as browser:
            form = await browser.get(SAMPLERS, headers=HTML)
            assert form.status_code == 401 and f'value="{SAMPLERS}"' in form.text
            page = await browser.get(SAMPLERS, headers={"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"})
            assert "load the page again" in page.json()["detail"] and "WWW-Authenticate" not in page.headers
            program = await browser.get(SAMPLERS, headers={"Sec-Fetch-Mode": "cors"})  # fetch of Node
            assert program.json()["detail"] == "Not authenticated" and "WWW-Authenticate" in program.headers
            fields = {"username": "", "password": "s3cret", "next": SAMPLERS}
            found = await browser.post("/login", data=fields, headers=HTML, follow_redirects=True)
            assert found.status_code == 200 and found.json()

    asyncio.run(visit())
