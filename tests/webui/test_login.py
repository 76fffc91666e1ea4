"""Who may open the page, and which addresses stay the API's."""

from __future__ import annotations

import httpx
import pytest

from sdwebui_api.config.flags import Flags
from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.login import page_login
from sdwebui_api.webui.page import mount_page
from tests.support.fakes import fake_services
from tests.support.server import run_in_thread


def test_pairs_of_the_flag_and_of_the_file(tmp_path):
    file = tmp_path / "users.txt"
    file.write_text("carol:c:3\ndave:4\n")
    check = page_login(Flags(gradio_auth="ann:1, bob:2", gradio_auth_path=str(file)))
    assert check is not None
    assert check("ann", "1") and check("bob", "2") and check("carol", "c:3") and check("dave", "4")
    assert not check("ann", "2") and not check("", "") and not check("eve", "1")


def test_without_the_flags_nobody_is_asked():
    assert page_login(Flags()) is None


@pytest.mark.parametrize("flags", [Flags(gradio_auth="secret"), Flags(gradio_auth_path="/nowhere/users")])
def test_a_flag_that_holds_no_pair_is_refused(flags):
    with pytest.raises(BadRequest, match="gradio-auth"):
        page_login(flags)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    services = fake_services(tmp_path_factory.mktemp("login"), "--gradio-auth", "ann:1")
    with run_in_thread(services, mount_page) as address:
        yield address
    services.runner.drain(5)


def test_the_page_asks_for_the_log_in(address):
    config = httpx.get(f"{address}/config", timeout=60)
    assert config.status_code == 401
    assert "auth_required" in httpx.get(address, timeout=60).text
    with httpx.Client(base_url=address, timeout=60) as browser:
        assert browser.post("/login", data={"username": "ann", "password": "2"}).status_code == 400
        assert browser.post("/login", data={"username": "ann", "password": "1"}).status_code == 200
        assert browser.get("/config").status_code == 200


@pytest.mark.parametrize(
    "method, path, status",
    [("GET", "/sdapi/v1/nothing", 404), ("GET", "/sdapi/v1/txt2img", 405), ("POST", "/controlnet/version", 405)],
)
def test_addresses_of_the_api_stay_its_own(address, method, path, status):
    answer = httpx.request(method, address + path, timeout=60)
    assert answer.status_code == status
    assert set(answer.json()) >= {"error", "detail", "body", "errors"}
