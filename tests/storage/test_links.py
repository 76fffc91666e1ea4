"""The guard's rules, name by name; the fetcher's limits; the sender of callbacks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.errors import BadRequest, Busy, NotFound, SdWebUIError
from sdwebui_api.storage.callback_sender import CallbackSender, callback_sender
from sdwebui_api.storage.links import LinkFetcher, LinkLimits, is_link, link_fetcher
from sdwebui_api.storage.net_guard import AllowList, GuardedBackend, NetGuard, address_kind
from tests.support.hosts import Host, Names, png, running_host


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with running_host() as host:
        yield host


def get(fetcher: LinkFetcher, *urls: str) -> list[bytes]:
    async def fetch() -> list[bytes]:
        async with fetcher.fetched({url: f"images[{index}]" for index, url in enumerate(urls)}) as files:
            return [files[url] for url in urls]

    return asyncio.run(fetch())


def loopback(**limits: Any) -> LinkFetcher:
    return LinkFetcher(NetGuard(AllowList(["127.0.0.1"])), LinkLimits(**limits))


# -- addresses ---------------------------------------------------------------------------------------------------------

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1",
    "168.63.129.17", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808",
]  # fmt: skip
REFUSED = {
    "loopback": [
        "127.0.0.1", "127.255.255.255", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
    ],
    "link-local": ["169.254.0.1", "fe80::1", "febf::1", "::ffff:169.254.1.1"],
    "private": [
        "10.255.0.1", "172.16.0.0", "172.31.255.255", "192.168.0.1", "100.64.0.0", "100.127.255.255", "fc00::1",
        "fd00:ec2::254", "fec0::1", "::7f00:1", "64:ff9b:1::1", "100::1", "5f00::1", "4000::1", "64:ff9b::a00:1",
    ],
    "a cloud's metadata service": ["169.254.169.254", "100.100.100.200", "168.63.129.16", "::ffff:169.254.169.254"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1"],
    "reserved": ["192.0.0.1", "192.0.2.1", "198.19.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1", "255.255.255.255",
                 "192.88.99.1", "2001::1", "2001:db8::1", "3fff::1"],
    "a tunnel": ["2002:7f00:1::", "2002:808:808::1", "2a00:1450::5efe:7f00:1", "fe80::200:5efe:10.0.0.1"],
}  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text):
    assert address_kind(ipaddress.ip_address(text)) == ""


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in REFUSED.items() for text in texts])
def test_refused_addresses(kind, text):
    assert address_kind(ipaddress.ip_address(text)) == kind


def test_what_ipaddress_thinks_private_is_never_public():
    """Held against the standard library's tables, at random."""
    import random

    chosen = random.Random(7)
    addresses = [ipaddress.IPv4Address(chosen.getrandbits(32)) for _ in range(20_000)]
    addresses += [ipaddress.IPv6Address(chosen.getrandbits(128)) for _ in range(20_000)]
    assert not [one for one in addresses if address_kind(one) == "" and (not one.is_global or one.is_multicast)]


@pytest.mark.parametrize(
    ("entry", "hosts", "others"),
    [
        (
            "intern.example",
            ["intern.example", "INTERN.example", "intern.example."],
            ["a.intern.example", "xintern.example"],
        ),
        (".intern.example", ["a.intern.example", "b.a.intern.example"], ["intern.example", "xintern.example"]),
        ("bücher.example", ["xn--bcher-kva.example"], ["bucher.example"]),
    ],
)
def test_allowed_names(entry, hosts, others):
    allow = AllowList([entry])
    assert all(allow.host(name) for name in hosts) and not any(allow.host(name) for name in others)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("10.1.0.0/16", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"], ["10.2.0.1"]),
        ("10.1.2.3/16", ["10.1.9.9"], ["10.2.0.1"]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2", "::1"]),
        ("[::1]", ["::1"], ["127.0.0.1"]),
        ("fd00::/8", ["fd12::1"], ["fc00::1"]),
    ],
)
def test_allowed_networks(entry, inside, outside):
    allow = AllowList([entry])
    assert all(allow.address(ipaddress.ip_address(text)) for text in inside)
    assert not any(allow.address(ipaddress.ip_address(text)) for text in outside)


@pytest.mark.parametrize(
    "entry", ["", ".", "10.0.0.0/33", "http://x", "host:80", "*.corp", "a b", "user@host", "x/y", "1.2.3.4.5/8", "#"]
)
def test_entries_that_cannot_be_meant_stop_the_start(entry):
    with pytest.raises(BadRequest, match="--image-link-allow"):
        link_fetcher(parse_flags(["--image-link-allow", entry], environ={}))


def test_several_entries_on_the_command_line():
    flags = parse_flags(["--image-link-allow", "a.test", "--image-link-allow", "10.0.0.0/8"], environ={})
    allow = link_fetcher(flags).guard.allow
    assert allow.host("a.test") and allow.address(ipaddress.ip_address("10.1.1.1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://x", True), (" HTTPS://x", True), ("oss://b/k", True), ("file:///x", True), ("gopher://x", True),
        ("data:image/png;base64,AAAA", False), ("iVBORw0KGgo=", False), ("", False), ("//x", False), (None, False),
        (5, False), ("A" * 40 + "://", False),
    ],
)  # fmt: skip
def test_what_is_a_link(text, expected):
    assert is_link(text) is expected


# -- connections -------------------------------------------------------------------------------------------------------


class Recorder:
    """A network that notes where it is asked to connect to, and refuses."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(self, host: str, *_: Any) -> Any:
        import httpcore

        self.connected.append(host)
        raise httpcore.ConnectError("refused")


def test_the_connection_goes_to_the_checked_addresses_and_asks_no_name_again():
    import httpcore

    names, network = Names(a_test=[["203.0.114.1", "2606:4700::1"], ["127.0.0.1"]]), Recorder()
    backend = GuardedBackend(NetGuard(resolver=names), "mask", network)  # type: ignore[arg-type]
    with pytest.raises(httpcore.ConnectError, match="refused"):
        asyncio.run(backend.connect_tcp("a.test", 80, 1.0))
    assert network.connected == ["203.0.114.1", "2606:4700::1"] and names.asked == ["a.test"]
    with pytest.raises(BadRequest) as refused:
        asyncio.run(backend.connect_tcp("a.test", 80, 1.0))
    assert len(network.connected) == 2 and (refused.value.status, refused.value.field) == (403, "mask")


@pytest.mark.parametrize("rows", [[], ["not an address"], [""]])
def test_resolvers_that_answer_nonsense(rows):
    fetcher = LinkFetcher(NetGuard(resolver=Names(odd_test=[rows])), LinkLimits(seconds=1))
    with pytest.raises(BadRequest) as refused:
        get(fetcher, "http://odd.test/")
    assert refused.value.status == 422


def test_a_dead_address_leaves_time_for_the_next(host):
    """The first of two addresses swallows packets; the second answers."""
    import httpcore

    class HalfDead(httpcore.AnyIOBackend):
        async def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any) -> Any:
            if host == "203.0.114.1":
                await asyncio.sleep(timeout or 60)
                raise httpcore.ConnectTimeout()
            return await super().connect_tcp(host, port, timeout)

    names = Names(half_test=[["203.0.114.1", "127.0.0.1"]])
    backend = GuardedBackend(NetGuard(AllowList(["half.test"]), names), "image", HalfDead())

    async def connect() -> None:
        stream = await backend.connect_tcp("half.test", host.port, 4.0)
        await stream.aclose()

    asyncio.run(connect())


def test_tls_verifies_the_name_not_the_address(tmp_path, monkeypatch):
    """SNI and certificate are those of the name although the connection goes to an address."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tls.test",
         "-addext", "subjectAltName=DNS:tls.test", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, name, __: seen.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running_host() as host:
        host._server.socket = context.wrap_socket(host._server.socket, server_side=True)
        names = Names(tls_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
        fetcher = LinkFetcher(NetGuard(AllowList(["tls.test", "other.test"]), names), LinkLimits(seconds=5))
        assert get(fetcher, f"https://tls.test:{host.port}/ok.png") == [png()]
        assert seen == ["tls.test"] and host.headers[-1]["Host"] == f"tls.test:{host.port}"
        with pytest.raises(BadRequest, match="certificate"):
            get(fetcher, f"https://other.test:{host.port}/ok.png")
        assert len(host.hits) == 1


# -- limits ------------------------------------------------------------------------------------------------------------


def test_files_in_order(host):
    host.pages["/a"] = host.pages["/empty"]
    base = f"http://127.0.0.1:{host.port}"
    assert get(loopback(), f"{base}/ok.png", f"{base}/a") == [png(), b""]


def test_memory_of_all_requests_together(host):
    fetcher = loopback(max_bytes=1000, request_bytes=1000, held_bytes=1000)
    url = f"http://127.0.0.1:{host.port}/ok.png"
    size = len(png())

    async def hold(depth: int) -> int:
        try:
            async with fetcher.fetched({url: "image"}):
                return await hold(depth + 1)
        except Busy:
            return depth

    assert asyncio.run(hold(0)) == 1000 // size
    assert fetcher._held == 0


def test_the_first_failure_ends_the_others(host):
    fetcher = loopback(seconds=5.0)
    base = f"http://127.0.0.1:{host.port}"
    with pytest.raises(BadRequest, match="answered 404") as failed:
        get(fetcher, f"{base}/silent", f"{base}/404")
    assert failed.value.field == "images[1]"
    assert fetcher._held == 0


def test_other_schemes_go_to_their_fetchers(host):
    asked = []

    async def fetch(url: str, field: str, most: int) -> bytes:
        asked.append((url, field, most))
        if "missing" in url:
            raise NotFound("no such object", field=field)
        return b"from the bucket"

    fetcher = LinkFetcher(NetGuard(), LinkLimits(max_bytes=500), {"oss": fetch})
    assert get(fetcher, " OSS://bucket/Key.png") == [b"from the bucket"]
    assert asked == [("OSS://bucket/Key.png", "images[0]", 500)]
    with pytest.raises(NotFound):
        get(fetcher, "oss://bucket/missing")
    with pytest.raises(BadRequest, match="http:// or https:// or oss://"):
        get(fetcher, "ftp://x/y")


def test_flags_set_the_limits():
    flags = parse_flags(["--image-link-max-mb", "0.5", "--image-link-timeout", "7"], environ={})
    assert link_fetcher(flags).limits == LinkLimits(max_bytes=2**19, seconds=7.0)


# -- callbacks ---------------------------------------------------------------------------------------------------------


class Receiver:
    """Notes POSTs; answers `status`."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.location = ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/done"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def sender(secret: bytes | None = b"s3cret", allow: str = "127.0.0.1", timeout: float = 30.0) -> CallbackSender:
    return CallbackSender(NetGuard(AllowList([allow])), secret, timeout=timeout)


def test_callbacks_are_signed(receiver):
    body = b'{"images": []}\n'
    headers = {"X-Request-Id": "r-1", "Content-Type": "application/json"}
    assert asyncio.run(sender().send(receiver.url, body, headers)) == 204
    [(sent, received)] = receiver.posts
    message = sent["x-sdwebui-timestamp"].encode() + b"." + received
    expected = hmac.new(b"s3cret", message, hashlib.sha256).hexdigest()
    assert received == body and sent["x-sdwebui-signature"] == f"sha256={expected}"
    assert sent["x-request-id"] == "r-1" and sent["content-type"] == "application/json"


def test_callbacks_without_a_secret_carry_no_signature(receiver):
    assert asyncio.run(sender(None).send(receiver.url, b"{}", {})) == 204
    assert "x-sdwebui-signature" not in receiver.posts[0][0]


def test_callbacks_follow_no_redirect(receiver, host):
    receiver.status, receiver.location = 307, f"http://127.0.0.1:{host.port}/ok.png"
    hits = len(host.hits)
    assert asyncio.run(sender().send(receiver.url, b"{}", {})) == 307
    assert len(host.hits) == hits


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://localhost/", "http://[::1]/", "file:///x", "ftp://a/b"]
)
def test_callbacks_past_the_guard(url, receiver):
    strict = sender(allow="other.test")
    for call in (strict.send(url, b"{}", {}), strict.check(url)):
        with pytest.raises(BadRequest) as refused:
            asyncio.run(call)
        assert refused.value.status in (403, 422) and refused.value.field == "callback_url"


def test_callbacks_that_do_not_get_through(host):
    with pytest.raises(httpx.HTTPError):
        asyncio.run(sender().send("http://127.0.0.1:1/closed", b"{}", {}))
    host.pages["/silent-post"] = host.pages["/silent"]
    with pytest.raises(httpx.HTTPError):
        asyncio.run(sender(allow="a.invalid").send("http://a.invalid/", b"{}", {}))


def test_a_receiver_that_never_answers():
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(httpx.HTTPError):
            asyncio.run(sender(timeout=1.0).send(f"http://127.0.0.1:{silent.getsockname()[1]}/", b"{}", {}))


@pytest.mark.parametrize("url", [5, None, "", "done", ["http://a.test/"], "oss://b/k"])
def test_a_callback_url_is_an_address(url):
    with pytest.raises(BadRequest) as refused:
        asyncio.run(sender().check(url))
    assert refused.value.status == 422


def test_a_callback_host_may_be_unknown_when_the_request_comes():
    asyncio.run(sender().check("http://not-yet.invalid/done"))


def test_the_secret(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text(" from the file \n")
    flags = parse_flags(["--callback-secret-file", str(file)], environ={})
    assert callback_sender(flags, {"CALLBACK_SECRET": "x"})._secret == b"from the file"
    plain = parse_flags([], environ={})
    assert callback_sender(plain, {"CALLBACK_SECRET": "x"})._secret == b"x"
    assert callback_sender(plain, {})._secret is None
    file.write_text("\n")
    for path in (file, tmp_path / "missing"):
        with pytest.raises(SdWebUIError, match="--callback-secret-file"):
            callback_sender(parse_flags(["--callback-secret-file", str(path)], environ={}), {})
