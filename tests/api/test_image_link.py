"""Pictures by URL: every place that takes one, and what clients must not reach through it."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.services import Services
from sdwebui_api.config.paths import Paths
from sdwebui_api.control.annotators import AnnotatorFolders
from sdwebui_api.storage.links import LinkFetcher, LinkLimits
from sdwebui_api.storage.net_guard import AllowList, NetGuard
from tests.support.fakes import fake_services
from tests.support.hosts import COLOUR, Host, Names, png, raw_host, running_host

SMALL = {"steps": 1, "width": 16, "height": 16}
LIMITS = LinkLimits(max_bytes=2**20, seconds=30.0)
ENDLESS = ("/drip", "/drip-headers", "/endless-headers", "/informational", "/silent")
"""Only the time ends these."""
INTERNAL_NAMES = {
    "localhost": "127.0.0.1",
    "evil_test": "127.0.0.1",
    "good_test_evil_test": "127.0.0.1",
    "evilgood_test": "::1",
    "metadata_google_internal": "169.254.169.254",
}


@pytest.fixture(scope="module")
def good() -> Any:
    """The host that is allowed, by its name `good.test`."""
    with running_host() as host:
        yield host


@pytest.fixture(scope="module")
def internal() -> Any:
    """A service of the internal network: nothing may ever reach it."""
    with running_host() as host:
        yield host


@pytest.fixture(autouse=True)
def untouched(good: Host, internal: Host) -> Any:
    good.hits.clear()
    internal.hits.clear()
    yield


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Any:
    services = with_controlnet(fake_services(tmp_path_factory.mktemp("data")))
    services.links = fetcher()
    services.interrogator.describe = lambda image, *_: f"{image.size}"  # type: ignore[method-assign]
    yield services
    services.runner.drain(5)


@pytest.fixture(scope="module")
def client(services: Services) -> Any:
    with TestClient(create_app(services), raise_server_exceptions=False) as client:
        yield client


def fetcher(names: Names | None = None, limits: LinkLimits = LIMITS, allow: tuple[str, ...] = ("good.test",)) -> Any:
    names = names or Names(good_test=[["127.0.0.1"]], **{name: [[address]] for name, address in INTERNAL_NAMES.items()})
    return LinkFetcher(NetGuard(AllowList(allow), names), limits)


def with_controlnet(services: Services) -> Services:
    from sdwebui_api.scripting.controlnet import ControlNetScript

    annotators = AnnotatorFolders(Paths.from_flags(services.flags))
    services.scripts.add(ControlNetScript(annotators.context_for))  # type: ignore[attr-defined]
    return services


def url(host: Host, path: str = "/ok.png", name: str = "good.test") -> str:
    return f"http://{name}:{host.port}{path}"


def img2img(client: TestClient, **fields: Any) -> Any:
    return client.post("/sdapi/v1/img2img", json={**SMALL, **fields})


def by_link(client: TestClient, link: Any) -> Any:
    return img2img(client, init_images=[], alwayson_scripts={"image_link": link})


def last(services: Services) -> Any:
    return services.generator.requests[-1]  # type: ignore[attr-defined]


def is_the_picture(image: Any) -> bool:
    return tuple(np.asarray(image)[0, 0][:3]) == COLOUR


# -- where URLs are taken ----------------------------------------------------------------------------------------------


def test_image_link_takes_the_place_of_init_images(client, services, good):
    answer = by_link(client, url(good))
    assert answer.status_code == 200, answer.text
    assert is_the_picture(last(services).init.images[0])


def test_image_link_wins_over_init_images(client, services, good):
    unreached = "http://10.0.0.1/never.png"
    answer = img2img(client, init_images=[unreached], alwayson_scripts={"image_link": url(good)})
    assert answer.status_code == 200 and is_the_picture(last(services).init.images[0])


def test_init_images_and_masks(client, services, good):
    body = {"init_images": [url(good), " " + url(good, "/ok.png?2")], "batch_size": 2, "mask": url(good, "/ok.png?m")}
    answer = img2img(client, **body, include_init_images=True)
    assert answer.status_code == 200, answer.text
    assert [is_the_picture(image) for image in last(services).init.images] == [True, True]
    assert is_the_picture(last(services).init.mask.image)
    assert answer.json()["parameters"]["init_images"] == body["init_images"], "the echo shows what was sent"


def test_the_same_url_is_fetched_once(client, good):
    assert img2img(client, init_images=[url(good)] * 3, batch_size=3, mask=url(good)).status_code == 200
    assert len(good.hits) == 1


def test_first_pass_picture(client, services, good):
    body = {**SMALL, "firstpass_image": url(good), "denoising_strength": 0.5, "hr_upscaler": "Lanczos"}
    assert client.post("/sdapi/v1/txt2img", json={**body, "enable_hr": True}).status_code == 200
    assert is_the_picture(last(services).hires.first_picture)
    good.hits.clear()
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
    assert not good.hits, "nothing is fetched for what nobody reads"


UNIT = {"enabled": True, "module": "canny", "model": "control_sd15_tiny_canny"}


@pytest.mark.parametrize(
    "fields",
    [
        lambda link: {"image_link": link},
        lambda link: {"image_link": link, "image": "http://10.0.0.1/never.png"},
        lambda link: {"image": link},
        lambda link: {"input_image": link},
        lambda link: {"image": {"image": link, "mask": link}},
        lambda link: {"image": [link, link + "?mask"]},
        lambda link: {"image": [[link, None]]},
        lambda link: {"image": link, "mask": link, "effective_region_mask": link},
    ],
    ids=["link", "link wins", "image", "older name", "object", "pair", "list", "masks"],
)
def test_units(fields, client, services, good):
    unit = {**UNIT, **fields(url(good))}
    answer = client.post("/sdapi/v1/txt2img", json={**SMALL, "alwayson_scripts": {"ControlNet": {"args": [unit]}}})
    assert answer.status_code == 200, answer.text
    assert is_the_picture(last(services).always_on[0].args["units"][0].images[0].image)
    assert answer.json()["parameters"]["alwayson_scripts"]["ControlNet"]["args"] == [unit]


def test_a_single_unit_without_a_list(client, services, good):
    alwayson = {"controlnet": {"args": {**UNIT, "image": url(good)}}}
    assert client.post("/sdapi/v1/txt2img", json={**SMALL, "alwayson_scripts": alwayson}).status_code == 200
    assert is_the_picture(last(services).always_on[0].args["units"][0].images[0].image)


def test_nothing_is_fetched_for_a_unit_that_is_off(client, good):
    off = [{**UNIT, "enabled": value, "image": url(good)} for value in (False, "false", 0, None)]
    body = {**SMALL, "alwayson_scripts": {"controlnet": {"args": off}}}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
    assert good.hits == []


OTHER_DOORS = {
    "init_images[0]": ("/sdapi/v1/img2img", lambda link: {**SMALL, "init_images": [link]}),
    "mask": ("/sdapi/v1/img2img", lambda link: {**SMALL, "init_images": [png_text()], "mask": link}),
    "alwayson_scripts.image_link": (
        "/sdapi/v1/img2img",
        lambda link: {**SMALL, "alwayson_scripts": {"image_link": link}},
    ),
    "alwayson_scripts.controlnet.args[0].image_link": (
        "/sdapi/v1/txt2img",
        lambda link: {**SMALL, "alwayson_scripts": {"controlnet": {"args": [{**UNIT, "image_link": link}]}}},
    ),
    "alwayson_scripts.controlnet.args[1].mask": (
        "/sdapi/v1/img2img",
        lambda link: {
            **SMALL,
            "init_images": [png_text()],
            "alwayson_scripts": {"controlnet": {"args": [{}, {**UNIT, "image": png_text(), "mask": link}]}},
        },
    ),
    "image": ("/sdapi/v1/extra-single-image", lambda link: {"image": link, "upscaling_resize": 1}),
    "imageList[1].data": (
        "/sdapi/v1/extra-batch-images",
        lambda link: {"imageList": [{"data": text, "name": "a"} for text in (png_text(), link)], "upscaling_resize": 1},
    ),
    "image ": ("/sdapi/v1/png-info", lambda link: {"image": link}),
    "image  ": ("/sdapi/v1/interrogate", lambda link: {"image": link}),
    "controlnet_input_images[0]": (
        "/controlnet/detect",
        lambda link: {"controlnet_module": "canny", "controlnet_input_images": [link]},
    ),
    "controlnet_images[0]": (
        "/controlnet/detect",
        lambda link: {"controlnet_module": "canny", "controlnet_images": [link]},
    ),
    "controlnet_masks[0]": (
        "/controlnet/detect",
        lambda link: {"controlnet_module": "canny", "controlnet_images": [png_text()], "controlnet_masks": [link]},
    ),
}  # fmt: skip


def png_text() -> str:
    import base64

    return base64.b64encode(png()).decode()


@pytest.mark.parametrize("field", OTHER_DOORS)
def test_every_door_fetches_and_refuses(field, client, good, internal):
    path, body = OTHER_DOORS[field]
    assert (answer := client.post(path, json=body(url(good)))).status_code == 200, answer.text
    assert good.hits
    refused = client.post(path, json=body(f"http://127.0.0.1:{internal.port}/ok.png"))
    assert refused.status_code == 403 and internal.hits == []
    assert refused.json()["errors"].startswith(f"{field.strip()}: ")


def test_requests_look_like_this(client, good):
    by_link(client, url(good, "/ok.png?a=%20b#fragment"))
    assert good.hits == ["/ok.png?a=%20b"]
    headers = {name.lower(): value for name, value in good.headers[-1].items()}
    assert headers["host"] == f"good.test:{good.port}" and headers["accept-encoding"] == "identity"


def test_the_settings_of_a1111(tmp_path, good):
    """`api_enable_requests`, `api_useragent`: only the settings file has them. The guard stays whatever it says."""
    settings = tmp_path / "config.json"
    for written, link, status in (
        ({"api_useragent": "studio/1"}, url(good), 200),
        ({"api_enable_requests": False}, url(good), 422),
        ({"api_forbid_local_requests": False}, f"http://127.0.0.1:{good.port}/ok.png", 403),
    ):
        settings.write_text(json.dumps(written))
        services = fake_services(tmp_path)
        services.links = fetcher()
        assert by_link(TestClient(create_app(services)), link).status_code == status, written
    assert len(good.hits) == 1 and good.headers[-1]["User-Agent"] == "studio/1"


def test_proxies_of_the_environment_are_not_used(client, good, internal, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{internal.port}")
    assert by_link(client, url(good)).status_code == 200
    assert internal.hits == []


@pytest.mark.parametrize("link", ["picture.png", "data:image/png;base64,AAAA", 5, ["http://good.test/"], {}, True])
def test_image_link_is_an_address(link, client):
    answer = by_link(client, link)
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", "alwayson_scripts", "image_link"]


def test_redirects_are_followed_within_reason(client, services, good):
    link = url(good)
    for _ in range(5):
        link = url(good, f"/redirect?to={quoted(link)}")
    assert by_link(client, link).status_code == 200
    assert is_the_picture(last(services).init.images[0])
    assert by_link(client, url(good, f"/redirect?to={quoted(link)}")).status_code == 422


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def test_downloads_do_not_hold_up_the_server(client, good):
    """They run on the event loop: while one hangs, others are answered, and no job thread is taken."""
    import threading

    begun, go_on = threading.Event(), threading.Event()
    good.pages["/begun"] = lambda handler: (begun.set(), go_on.wait(60))[-1]
    thread = threading.Thread(target=by_link, args=(client, url(good, "/begun")))
    thread.start()
    assert begun.wait(60)
    assert client.post("/sdapi/v1/txt2img", json=SMALL).status_code == 200
    assert thread.is_alive(), "answered while the other one still waits"
    go_on.set()
    thread.join()


# -- what they must not reach ------------------------------------------------------------------------------------------

ADDRESSES = {
    "loopback": "127.0.0.1",
    "all of loopback": "127.9.8.7",
    "localhost": "localhost",
    "localhost in capitals": "LocalHost",
    "localhost with a trailing dot": "localhost.",
    "address with a trailing dot": "127.0.0.1.",
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "hexadecimal bytes": "0x7f.0x0.0x0.0x1",
    "octal": "017700000001",
    "octal bytes": "0177.0.0.01",
    "short": "127.1",
    "this host": "0.0.0.0",
    "this host, short": "0",
    "IPv6 loopback": "[::1]",
    "IPv6 loopback, long": "[0:0:0:0:0:0:0:1]",
    "IPv6 unspecified": "[::]",
    "IPv4-mapped": "[::ffff:127.0.0.1]",
    "IPv4-mapped, hexadecimal": "[::ffff:7f00:1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "IPv4-translated": "[::ffff:0:127.0.0.1]",
    "6to4": "[2002:7f00:0001::1]",
    "NAT64": "[64:ff9b::7f00:1]",
    "NAT64, local": "[64:ff9b:1::7f00:1]",
    "Teredo": "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "ISATAP": "[2a00:1450::5efe:7f00:1]",
    "link-local IPv6": "[fe80::1]",
    "link-local IPv6 with a zone": "[fe80::1%25lo]",
    "unique local IPv6": "[fd00::1]",
    "site-local IPv6": "[fec0::1]",
    "private 10": "10.0.0.1",
    "private 172": "172.16.5.5",
    "private 192": "192.168.1.1",
    "carrier grade": "100.64.0.1",
    "link-local": "169.254.10.10",
    "metadata": "169.254.169.254",
    "metadata, decimal": "2852039166",
    "metadata, IPv4-mapped": "[::ffff:169.254.169.254]",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Azure": "168.63.129.16",
    "metadata of AWS, IPv6": "[fd00:ec2::254]",
    "metadata by name": "metadata.google.internal",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "documentation": "192.0.2.1",
    "a name that resolves inside": "evil.test",
    "full-width digits": "１２７.０.０.１",
    "circled letters": "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "ideographic dots": "127。0。0。1",
    "percent-encoded": "%31%32%37.0.0.1",
    "zero-width space": "local\u200bhost",
    "allowed name as user": "good.test@127.0.0.1",
    "allowed name as user and password": "good.test:80@127.0.0.1",
    "allowed name as prefix": "good.test.evil.test",
    "allowed name as suffix": "evilgood.test",
    "backslash": "good.test\\@127.0.0.1",
    "fragment": "127.0.0.1#@good.test",
    "query": "127.0.0.1?@good.test",
}  # fmt: skip


NO_ADDRESS = {
    "address with a trailing dot", "octal bytes", "full-width digits", "circled letters", "percent-encoded",
    "zero-width space", "allowed name as user", "allowed name as user and password", "backslash",
}  # fmt: skip
"""Refused for their form; all others for what they resolve to."""


@pytest.mark.parametrize(("name", "host"), ADDRESSES.items(), ids=ADDRESSES.keys())
def test_internal_addresses(name, host, client, good, internal):
    answer = by_link(client, f"http://{host}:{internal.port}/ok.png")
    assert answer.status_code == (422 if name in NO_ADDRESS else 403), answer.text
    assert internal.hits == good.hits == []


OTHER_FORMS = [
    "file:///etc/passwd", "file://localhost/etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://127.0.0.1/a.png",
    "dict://127.0.0.1:11211/stat", "ldap://127.0.0.1/", "unix:///var/run/docker.sock", "jar:http://127.0.0.1!/a",
    "oss://bucket/key.png", "s3://bucket/key.png", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "ws://127.0.0.1/",
    "https://", "http:///ok.png", "http://:80/", "http://127.0.0.1:99999/", "http://good.test:0/", "http://good.test:x/",
    "http://good.test:-1/", "http://[::1", "http://good.test\r\nX-Injected: 1/", "http://good.test/\r\nX: 1",
    "http://good.test\x00.evil.test/", "http://" + "a" * 64 + ".test/", "http://" + "a." * 2000 + "test/",
    "http://good.test/" + "a" * 9000, "http://..", "http://good..test/", "http://user:secret@good.test/",
]  # fmt: skip


@pytest.mark.parametrize("link", OTHER_FORMS, ids=lambda link: ascii(link[:50]))
@pytest.mark.parametrize("field", ["alwayson_scripts.image_link", "init_images[0]"])
def test_other_forms(field, link, client, good, internal):
    path, body = OTHER_DOORS[field]
    sent = json.dumps(body(link))
    answer = client.post(path, content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code in (403, 422), answer.text
    assert internal.hits == good.hits == []
    assert field in answer.json()["errors"]


REDIRECTS = {
    "to loopback": "http://127.0.0.1:{port}/ok.png",
    "to IPv6 loopback": "http://[::1]:{port}/ok.png",
    "to a decimal address": "http://2130706433:{port}/ok.png",
    "to a name that resolves inside": "http://evil.test:{port}/ok.png",
    "without a scheme": "//127.0.0.1:{port}/ok.png",
    "to metadata": "http://169.254.169.254/latest/meta-data/",
    "to a file": "file:///etc/passwd",
    "to gopher": "gopher://127.0.0.1:{port}/_x",
    "to oss": "oss://bucket/key",
    "to nothing": "",
    "to nonsense": "http://[",
    "to a user": "http://good.test@127.0.0.1:{port}/ok.png",
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", REDIRECTS.values(), ids=REDIRECTS.keys())
def test_redirects_inside(target, status, client, good, internal):
    to = quoted(target.format(port=internal.port))
    answer = by_link(client, url(good, f"/redirect?status={status}&to={to}"))
    assert answer.status_code in (403, 422), answer.text
    assert internal.hits == [] and len(good.hits) <= 6


HOSTILE_HOSTS = {
    "/loop": 422, "/endless": 413, "/large": 413, "/large-announced": 413, "/drip": 422, "/drip-headers": 422,
    "/endless-headers": 422, "/informational": 422, "/silent": 422, "/truncated": 422, "/gzip": 422,
    "/deflate-transfer": 422, "/pixels.png": 413, "/page.html": 422, "/empty": 422, "/svg": 422, "/no-location": 422,
    "/404": 422, "/500": 422,
}  # fmt: skip


@pytest.mark.parametrize(("path", "status"), HOSTILE_HOSTS.items())
def test_hostile_hosts(path, status, client, services, good, monkeypatch):
    if path in ENDLESS:
        monkeypatch.setattr(services, "links", fetcher(limits=LinkLimits(max_bytes=2**20, seconds=1.0)))
    start = time.perf_counter()
    answer = by_link(client, url(good, path))
    assert answer.status_code == status, answer.text
    assert time.perf_counter() - start < 20
    assert "secret" not in answer.text, "what was fetched is not shown"


OK = b"HTTP/1.1 200 OK\r\n"
NO_HTTP = {
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a data base": b"-ERR wrong number of arguments\r\n",
    "HTTP/0.9": b"<html>secret</html>",
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "negative length": OK + b"Content-Length: -1\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length and chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk of letters": OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
    "header without a colon": OK + b"secret\r\n\r\n",
    "folded header": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "redirect with bytes": b"HTTP/1.1 302 Found\r\nLocation: http://\xe9\xff.test/\r\nContent-Length: 0\r\n\r\n",
    "redirect with a port": b"HTTP/1.1 302 Found\r\nLocation: http://good.test:123456/\r\nContent-Length: 0\r\n\r\n",
    "redirect, long": b"HTTP/1.1 302 Found\r\nLocation: /" + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "redirect with brackets": b"HTTP/1.1 302 Found\r\nLocation: //[::1\r\nContent-Length: 0\r\n\r\n",
    "two locations": b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    "odd encoding": OK + b"Content-Encoding: br, gzip\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_hosts_that_do_not_speak_http(answer, client, internal):
    with raw_host(answer) as port:
        told = by_link(client, f"http://good.test:{port}/a.png")
    assert told.status_code in (403, 422), told.text
    assert internal.hits == [] and "secret" not in told.text


def test_the_request_as_a_whole_is_limited(services, good, monkeypatch):
    small = LinkLimits(max_bytes=2**20, seconds=5.0, request_bytes=2**20)
    good.pages["/half"] = lambda handler: good.pages["/padded"](handler)
    padded = png() + bytes(600_000)

    def serve(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(padded)))
        handler.end_headers()
        handler.wfile.write(padded)

    good.pages["/padded"] = serve
    monkeypatch.setattr(services, "links", fetcher(limits=small))
    client = TestClient(create_app(services))
    assert img2img(client, init_images=[url(good, "/padded")]).status_code == 200
    both = img2img(client, init_images=[url(good, "/padded"), url(good, "/half")], batch_size=2)
    assert both.status_code == 413 and "together" in both.json()["detail"]
    assert services.links._held == 0


def test_too_many_links(client, good):
    images = [{"data": url(good, f"/ok.png?{number}"), "name": "x"} for number in range(129)]
    answer = client.post("/sdapi/v1/extra-batch-images", json={"imageList": images})
    assert answer.status_code == 422 and good.hits == []


# -- names that change their mind --------------------------------------------------------------------------------------


def test_rebinding_between_check_and_connection(services, good, internal, monkeypatch):
    """The name is public when it is checked and internal afterwards: it is not asked a second time."""
    names = Names(rebinding_test=[["203.0.114.1"], ["127.0.0.1"]])
    monkeypatch.setattr(services, "links", fetcher(names))
    answer = by_link(TestClient(create_app(services)), f"http://rebinding.test:{internal.port}/ok.png")
    assert answer.status_code == 422 and names.asked == ["rebinding.test"]
    assert internal.hits == []


def test_rebinding_between_redirects(services, good, internal, monkeypatch):
    """Each hop is judged anew. The first address is permitted (by CIDR), the second is not."""
    names = Names(rebinding_test=[["127.0.0.1"], ["127.0.0.2"]])
    monkeypatch.setattr(services, "links", fetcher(names, allow=("127.0.0.1/32",)))
    link = f"http://rebinding.test:{good.port}/redirect?to=/ok.png"
    answer = by_link(TestClient(create_app(services)), link)
    assert answer.status_code == 403 and len(names.asked) == 2
    assert len(good.hits) == 1


@pytest.mark.parametrize("addresses", [["203.0.114.1", "127.0.0.1"], ["127.0.0.1", "203.0.114.1"], ["2a00::1", "::1"]])
def test_a_name_with_public_and_internal_addresses(addresses, services, internal, monkeypatch):
    names = Names(mixed_test=[addresses])
    monkeypatch.setattr(services, "links", fetcher(names))
    answer = by_link(TestClient(create_app(services)), f"http://mixed.test:{internal.port}/ok.png")
    assert answer.status_code == 403 and internal.hits == []
    assert "127.0.0.1" not in answer.text and "::1" not in answer.text, "internal addresses are not told"


def test_rebinding_of_many_requests(services, internal, monkeypatch):
    """Alternating answers: whichever a request gets, the internal one is never connected to."""
    names = Names(flipping_test=[["203.0.114.1"], ["127.0.0.1"]] * 5)
    monkeypatch.setattr(services, "links", fetcher(names, LinkLimits(seconds=0.3)))
    client = TestClient(create_app(services))
    statuses = [by_link(client, f"http://flipping.test:{internal.port}/ok.png").status_code for _ in range(10)]
    assert set(statuses) == {403, 422} and internal.hits == []
