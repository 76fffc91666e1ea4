"""OSS and S3 against a server that checks signatures: uploads that are confirmed, failures that lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdwebui_api.config.flags import parse_flags
from sdwebui_api.errors import BadRequest, NotFound, NotStored, PayloadTooLarge, SdWebUIError
from sdwebui_api.storage.objects import ObjectRoot, Retries, Trouble
from sdwebui_api.storage.oss import OssBucket, region_of
from sdwebui_api.storage.results import ResultFile, ResultStore
from sdwebui_api.storage.roots import SaveRoots, save_roots
from sdwebui_api.storage.s3 import S3Bucket
from tests.support.object_server import BUCKET, KEY_ID, SECRET, TOKEN, ObjectServer, object_server

TIMEOUT = (30.0, 30.0)
SHORT = (1.0, 1.0)
"""Where the server lets one pass: less than its `slow`."""
RETRIES = Retries(attempts=4, first=0.01, longest=0.05)
DATA = bytes(range(256)) * 4
OSS_ENVIRON = {"OSS_ACCESS_KEY_ID": KEY_ID, "OSS_ACCESS_KEY_SECRET": SECRET}
KINDS = ("oss v1", "oss v1 token", "oss v4", "oss v4 token", "s3")


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with object_server() as running:
        running.slow = 2.0
        yield running


@pytest.fixture
def s3_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "r-1"}.items():
        monkeypatch.setenv(name, value)


def bucket_of(kind: str, server: ObjectServer, timeout: tuple[float, float] = TIMEOUT) -> Any:
    if kind == "s3":
        return S3Bucket(server.url, BUCKET, timeout=timeout)
    environ = dict(OSS_ENVIRON)
    if "v4" in kind:
        environ["OSS_REGION"] = "cn-test"
    if "token" in kind:
        environ["OSS_SESSION_TOKEN"] = server.token = TOKEN
    return OssBucket(server.url, BUCKET, environ, timeout=timeout)


@pytest.fixture(params=KINDS)
def root(request: pytest.FixtureRequest, server: ObjectServer, s3_environ: None) -> ObjectRoot:
    return ObjectRoot(bucket_of(request.param, server), "results", RETRIES)


KEY = "results/a b/图+1.png"


def test_upload_and_download(root: ObjectRoot, server: ObjectServer) -> None:
    root.put(KEY, DATA, "image/png")
    assert server.objects == {KEY: DATA} and server.content_types == {KEY: "image/png"}
    assert root.get(root.address(KEY), "image_link", 10_000) == DATA
    assert [(method, key) for method, key, _ in server.requests] == [("PUT", KEY), ("GET", KEY)]
    assert all(how.startswith("signed ") for _, _, how in server.requests)


def test_wrong_secrets_are_told_at_once(server: ObjectServer) -> None:
    environ = {**OSS_ENVIRON, "OSS_ACCESS_KEY_SECRET": "another"}
    root = ObjectRoot(OssBucket(server.url, BUCKET, environ, timeout=TIMEOUT), "", RETRIES)
    with pytest.raises(NotStored, match="403 SignatureDoesNotMatch") as caught:
        root.put("a.png", DATA, "image/png")
    assert caught.value.status == 502 and len(server.requests) == 1 and not server.objects


def test_signed_addresses(root: ObjectRoot, server: ObjectServer) -> None:
    server.objects[KEY] = DATA
    signed = root.bucket.signed_url(KEY, 600)
    assert "," not in signed
    assert httpx.get(signed, timeout=60).content == DATA
    assert httpx.get(signed.replace("a%20b", "a%20c"), timeout=60).status_code == 403
    assert server.requests[0][2].endswith(" url")


def test_public_addresses(root: ObjectRoot, server: ObjectServer) -> None:
    server.objects[KEY] = DATA
    address = root.bucket.public_url(KEY)
    assert "?" not in address and httpx.get(address, timeout=60).status_code == 403
    server.public = True
    assert httpx.get(address, timeout=60).content == DATA


@pytest.mark.parametrize("fault", ["timeout", "503", "truncated", "reset", "lost answer", "damaged", "wrong answer"])
@pytest.mark.parametrize("kind", ["oss v1", "s3"])
def test_failing_uploads_are_repeated(kind: str, fault: Any, server: ObjectServer, s3_environ: None) -> None:
    root = ObjectRoot(bucket_of(kind, server, SHORT if fault == "timeout" else TIMEOUT), "", RETRIES)
    server.faults += [fault, fault]
    root.put("x/a.png", DATA, "image/png")
    assert server.objects == {"x/a.png": DATA} and not server.faults


@pytest.mark.parametrize("fault", ["timeout", "503", "truncated"])
@pytest.mark.parametrize("kind", ["oss v1", "s3"])
def test_failing_downloads_are_repeated(kind: str, fault: Any, server: ObjectServer, s3_environ: None) -> None:
    root = ObjectRoot(bucket_of(kind, server, SHORT if fault == "timeout" else TIMEOUT), "", RETRIES)
    server.objects["a.png"] = DATA
    server.faults.append(fault)
    assert root.get(root.address("a.png"), "f", 10_000) == DATA


def test_a_store_that_stays_away(server: ObjectServer) -> None:
    root = ObjectRoot(bucket_of("oss v1", server), "", RETRIES)
    server.faults += ["503"] * 99
    with pytest.raises(NotStored, match=f"oss://{BUCKET}/a.png could not be uploaded: OSS answered 503") as caught:
        root.put("a.png", DATA, "image/png")
    assert caught.value.status == 502 and len(server.requests) == RETRIES.attempts
    gone = ObjectRoot(OssBucket("http://127.0.0.1:9", BUCKET, OSS_ENVIRON, timeout=TIMEOUT), "", RETRIES)
    with pytest.raises(NotStored):
        gone.put("a.png", DATA, "image/png")


def test_pauses_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    def fails() -> None:
        raise Trouble("no", passing=True)

    with pytest.raises(Trouble):
        Retries().run(fails, "upload")
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_objects_that_cannot_be_had(root: ObjectRoot, server: ObjectServer) -> None:
    with pytest.raises(NotFound) as missing:
        root.get(root.address("results/none.png"), "image_link", 10)
    assert missing.value.field == "image_link"
    server.objects["results/big.png"] = bytes(11)
    with pytest.raises(PayloadTooLarge):
        root.get(root.address("results/big.png"), "image_link", 10)


@pytest.mark.parametrize(
    "url",
    [
        "oss://other/results/a.png", "oss://pictures/a.png", "oss://pictures/resultsX/a.png", "oss:///results/a.png",
        "oss://pictures/results/../a.png", "oss://pictures/results/./a.png", "oss://pictures", "oss://",
        "oss://user@pictures/results/a.png", "oss://pictures:80/results/a.png",
    ],
)  # fmt: skip
def test_addresses_outside_of_the_root(url: str, server: ObjectServer) -> None:
    root = ObjectRoot(bucket_of("oss v1", server), "results", RETRIES)
    with pytest.raises(BadRequest, match="oss://pictures/results") as caught:
        root.get(url, "image_link", 10)
    assert caught.value.status == 403 and not server.requests


@pytest.mark.parametrize("url", ["oss://pictures/a\nb", "oss://pictures/a\\b", f"oss://pictures/{'é' * 600}"])
def test_keys_that_no_store_takes(url: str, server: ObjectServer) -> None:
    with pytest.raises(BadRequest) as caught:
        ObjectRoot(bucket_of("oss v1", server)).get(url, "image_link", 10)
    assert caught.value.status == 422 and not server.requests


def test_regions_in_endpoints() -> None:
    assert region_of("https://oss-cn-hangzhou-internal.aliyuncs.com") == "cn-hangzhou"
    assert region_of("oss-ap-southeast-1.aliyuncs.com") == "ap-southeast-1"
    assert region_of("https://oss-accelerate.aliyuncs.com") is None and region_of("http://127.0.0.1:80") is None


# -- as the command line says ----------------------------------------------------------------------------------------


def roots(server: ObjectServer, data: Path, *more: str) -> SaveRoots:
    flags = ["--oss-endpoint", server.url, "--oss-bucket", BUCKET, "--oss-prefix", "/results/", *more]
    return save_roots(parse_flags(flags, environ={}), data)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OSS_ENVIRON.items():
        monkeypatch.setenv(name, value)


def write(store: ResultStore, save_dir: str, *paths: str) -> list[str]:
    target = store.roots.target(save_dir, "save_dir")
    return asyncio.run(store.write(target, [ResultFile(path, DATA, "image/png") for path in paths]))


@pytest.mark.parametrize(
    ("style", "save_dir", "address"),
    [
        ((), "oss://pictures/results/x", "oss://pictures/results/x/d/1.png"),
        ((), "/mnt/oss/x", "/mnt/oss/x/d/1.png"),
        (("mount",), "oss://pictures/results/x/", "/mnt/oss/x/d/1.png"),
        (("oss",), "/mnt/oss//x/.", "oss://pictures/results/x/d/1.png"),
        (("oss",), "/mnt/oss", "oss://pictures/results/d/1.png"),
        (("public",), "/mnt/oss/x", "{url}/pictures/results/x/d/1.png"),
    ],
)
def test_forms_of_addresses(
    tmp_path: Path, server: ObjectServer, environ: None, style: Any, save_dir: str, address: str
) -> None:
    flags = ["--oss-url-style", *style] if style else []
    store = ResultStore(roots(server, tmp_path, "--oss-mount", "/mnt/oss", *flags))
    assert write(store, save_dir, "d/1.png") == [address.format(url=server.url)]
    assert list(server.objects.values()) == [DATA] and not Path("/mnt/oss").exists()


def test_a_signed_address_is_answered(tmp_path: Path, server: ObjectServer, environ: None) -> None:
    store = ResultStore(roots(server, tmp_path, "--oss-url-style", "signed", "--oss-url-expires", "60"))
    (address,) = write(store, "oss://pictures/results", "1.png")
    assert httpx.get(address, timeout=60).content == DATA


def test_many_files_at_once_keep_their_order(tmp_path: Path, server: ObjectServer, environ: None) -> None:
    store = ResultStore(roots(server, tmp_path))
    names = [f"{index}.png" for index in range(40)]
    assert write(store, "oss://pictures/results/x", *names) == [f"oss://pictures/results/x/{name}" for name in names]
    assert len(server.objects) == 40


def test_what_a_bucket_does_not_take_is_kept_here(tmp_path: Path, server: ObjectServer, environ: None) -> None:
    store = ResultStore(roots(server, tmp_path))
    server.faults.append("403")
    with pytest.raises(NotStored, match="403 AccessDenied") as caught:
        write(store, "oss://pictures/results/x", "d/1.png", "d/2.png")
    for name in ("1.png", "2.png"):
        kept = tmp_path / "outputs" / "d" / name
        assert str(kept) in caught.value.message and kept.read_bytes() == DATA


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--oss-bucket", "b"], "--oss-endpoint"),
        (["--oss-bucket", "b", "--oss-endpoint", "http://oss"], "OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET"),
        (["--oss-mount", "/mnt/x"], "--oss-bucket"),
        (["--oss-url-style", "mount"], "--oss-mount"),
    ],
)
def test_flags_that_do_not_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], problem: str
) -> None:
    monkeypatch.delenv("OSS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("OSS_ACCESS_KEY_SECRET", raising=False)
    with pytest.raises(SdWebUIError, match=problem):
        save_roots(parse_flags(flags, environ={}), tmp_path)


@pytest.mark.parametrize(("endpoint", "bucket"), [("http://oss/with/path?x", "a"), ("ht tp://x", "a"), ("oss", "A_B")])
def test_endpoints_and_buckets_that_cannot_be(endpoint: str, bucket: str) -> None:
    with pytest.raises(BadRequest, match="--oss-endpoint"):
        OssBucket(endpoint, bucket, OSS_ENVIRON)
