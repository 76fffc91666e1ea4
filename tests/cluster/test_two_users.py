"""Nobody sees another's pictures, progress, files, settings or models: what Bob tries, and what Ann may herself."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from sdwebui_api.api.factory import create_app
from tests.cluster.conftest import HEADER, PICTURE, UPLOADED, Cluster
from tests.support.fakes import fake_services

SD = "/sdapi/v1"
FILES = "/file_browser/v1"
GRADIO = "/gradio_api"
THUMB = "/sd_extra_networks/thumb?kind=lora&file="
JOIN = {"data": [], "fn_index": 0, "trigger_id": None}

# method, address, body, what Bob gets, what Ann gets for the same (None: not asked, for it would end her job).
ATTEMPTS = [
    ("GET", SD + "/jobs/{job}", None, 404, 200),
    ("GET", SD + "/jobs/{job}/events", None, 404, None),
    ("DELETE", SD + "/jobs/{job}", None, 404, None),
    ("GET", SD + "/progress?id={job}", None, 404, 200),
    ("GET", SD + "/progress?id_task={job}", None, 404, 200),
    ("POST", SD + "/interrupt?id={job}", None, 404, None),
    ("POST", SD + "/skip?id={job}", None, 404, None),
    ("POST", SD + "/interrupt", None, 200, None),
    ("POST", SD + "/skip", None, 200, None),
    ("POST", SD + "/txt2img", {**PICTURE, "alwayson_scripts": {"save_dir": "../ann/outputs"}}, 403, 403),
    ("POST", SD + "/txt2img", {**PICTURE, "alwayson_scripts": {"save_dir": "{home}/outputs"}}, 403, None),
    ("POST", SD + "/txt2img", {**PICTURE, "alwayson_scripts": {"save_dir": "{data}/outputs"}}, 403, 403),
    ("POST", SD + "/txt2img", {**PICTURE, "override_settings": {"sd_model_checkpoint": "anns-model"}}, 404, None),
    ("POST", SD + "/txt2img", {**PICTURE, "alwayson_scripts": {"sd_model_checkpoint": "anns-model"}}, 404, None),
    ("POST", SD + "/txt2img", {**PICTURE, "save_images": True,
                               "override_settings": {"outdir_txt2img_samples": "{home}/outputs"}}, 200, None),
    ("POST", SD + "/options", {"sd_model_checkpoint": "anns-model"}, 404, None),
    ("POST", SD + "/create/embedding", {"name": "../../../ann/model_store/embeddings/x"}, 422, 422),
    ("GET", FILES + "/list?path=outputs/../../ann", None, 403, 403),
    ("GET", FILES + "/list?path=users", None, 403, 403),
    ("GET", FILES + "/download?path=outputs/secret.txt", None, 404, 200),
    ("GET", FILES + "/download?path=../ann/outputs/secret.txt", None, 403, 403),
    ("GET", FILES + "/preview?path=../ann/outputs/secret.txt", None, 403, 403),
    ("PUT", FILES + "/folder?path=../ann/outputs/new", None, 403, 403),
    ("PUT", FILES + "/upload?path=../ann/outputs/new.txt&size=1&id=a", None, 403, 403),
    ("PATCH", FILES + "/entry", {"path": "outputs", "to": "../ann/outputs/x"}, 403, 403),
    ("DELETE", FILES + "/entry?path=../ann/outputs&recursive=true", None, 403, 403),
    ("GET", THUMB + "anns-lora.preview.png", None, 404, 200),
    ("GET", THUMB + "../../../ann/model_store/Lora/anns-lora.preview.png", None, 404, 200),
    ("GET", "/sd_extra_networks/thumb?filename={home}/model_store/Lora/anns-lora.preview.png", None, 404, 200),
    ("GET", "/sd_extra_networks/thumb?filename={data}/config.json", None, 404, 404),
    ("GET", GRADIO + "/file={upload}", None, 404, 200),
    ("GET", GRADIO + "/file/{upload}", None, 404, 200),
    ("GET", GRADIO + "/file={cache}/x/../{below}", None, 404, 200),
    ("GET", GRADIO + "/file={result}", None, 404, 404),
    ("GET", GRADIO + "/file={home}/outputs/secret.txt", None, 404, 404),
    ("GET", GRADIO + "/file={data}/config.json", None, 403, 403),
    ("GET", GRADIO + "/file=http://127.0.0.1/", None, 404, 404),
    ("GET", GRADIO + "/queue/data?session_hash={session}", None, 404, None),
    ("GET", GRADIO + "/queue/data?session_hash=own&session_hash={session}", None, 404, None),
    ("GET", GRADIO + "/heartbeat/{session}", None, 404, None),
    ("GET", GRADIO + "/call/txt2img/{event}", None, 404, None),
    ("GET", GRADIO + "/call/v2/txt2img/{event}", None, 404, None),
    ("GET", GRADIO + "/upload_progress?upload_id=anns-upload", None, 404, None),
    ("POST", GRADIO + "/queue/join", {**JOIN, "session_hash": "{session}"}, 404, 200),
    ("POST", GRADIO + "/queue/join", {**JOIN, "session_hash": "bobs", "data": [{"path": "{upload}"}]}, 404, None),
    ("POST", GRADIO + "/queue/join", {**JOIN, "session_hash": "bobs", "data": [[{"image": {"path": "{upload}"}}]]},
     404, None),
    ("POST", GRADIO + "/run/predict", {**JOIN, "session_hash": "bobs", "data": [{"path": "{result}"}]}, 404, 404),
    ("POST", GRADIO + "/queue/join", {**JOIN, "session_hash": "bobs", "data": [{"composite": None, "id": "drawing"}]},
     404, None),
    ("POST", GRADIO + "/cancel", {"session_hash": "bobs", "fn_index": 0, "event_id": "{event}"}, 404, None),
    ("POST", GRADIO + "/cancel", {"session_hash": "{session}", "fn_index": 0, "event_id": "x"}, 404, None),
    ("POST", GRADIO + "/component_server",
     {"session_hash": "{session}", "component_id": 1, "fn_name": "x", "data": ""}, 404, None),
    ("POST", GRADIO + "/stream/{event}", {"data": []}, 404, 404),
    ("GET", GRADIO + "/deep_link?session_hash={session}", None, 404, 404),
    ("GET", GRADIO + "/proxy=http://127.0.0.1/", None, 404, 404),
    ("GET", "/monitoring/summary", None, 404, 404),
]  # fmt: skip


def filled(value, names: dict[str, str]):
    if isinstance(value, str):
        for name, found in names.items():
            value = value.replace("{" + name + "}", found)
        return value
    if isinstance(value, dict):
        return {key: filled(one, names) for key, one in value.items()}
    return [filled(one, names) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def names(cluster: Cluster) -> dict[str, str]:
    cache = cluster.data / "tmp" / "page"
    below = cluster.names["upload"].removeprefix(f"{cache}/")
    places = {"home": str(cluster.home("ann")), "data": str(cluster.data), "cache": str(cache), "below": below}
    return {**cluster.names, **places}


def ask(client: httpx.Client, method: str, address: str, body, names: dict[str, str]) -> int:
    # As it is spelled: a client that tidies `..` away would try nothing.
    with client.stream(method, filled(address, names), json=filled(body, names) if body else None) as answer:
        return answer.status_code


@pytest.mark.parametrize(("method", "address", "body", "bob", "ann"), ATTEMPTS)
def test_what_is_anns_is_not_bobs(cluster: Cluster, names, method, address, body, bob, ann):
    busy = method == "POST" and address.endswith("/txt2img") and bob == 200
    if busy:
        cluster.services.generator.gate.set()
    assert ask(cluster.bob, method, address, body, names) == bob
    if ann is not None:
        assert ask(cluster.ann, method, address, body, names) == ann
    if busy:
        assert not list((cluster.home("ann") / "outputs").glob("**/*.png"))
        cluster.services.generator.gate.clear()


def test_anns_work_goes_on_through_all_of_that(cluster: Cluster):
    job = cluster.ann.get(f"{SD}/jobs/{cluster.names['job']}").json()
    assert job["state"] in ("running", "done") and not job["interrupted"] and not job["skipped"]
    assert cluster.ann.get(f"{GRADIO}/file={cluster.names['upload']}").content == UPLOADED


def test_a_drawing_is_put_into_the_own_page_alone(cluster: Cluster):
    """As the editor of pictures sends it: a form."""
    fields = {"component_id": "1", "fn_name": "accept_blobs", "type": "composite", "index": "null"}
    blob = {"file": ("blob", b"x")}
    for client, session, id, status in (
        (cluster.ann, cluster.names["session"], "drawing", (404, "Function not found.")),
        (cluster.bob, cluster.names["session"], "another", (404, "Not Found")),
        (cluster.bob, "bobs", "drawing", (404, "Not Found")),
    ):
        form = {**fields, "session_hash": session, "id": id}
        answer = client.post(f"{GRADIO}/component_server", data=form, files=blob)
        assert (answer.status_code, answer.json()["detail"]) == status


def test_everybody_has_own_listings(cluster: Cluster):
    for path, mine in (("loras", "anns-lora"), ("sd-models", "anns-model"), ("prompt-styles", "anns-style")):
        assert mine in cluster.ann.get(f"{SD}/{path}").text
        assert mine not in cluster.bob.get(f"{SD}/{path}").text
    assert "anns-control" in cluster.ann.get("/controlnet/model_list").text
    assert "anns-control" not in cluster.bob.get("/controlnet/model_list").text
    shared = "tiny-sd"
    assert all(shared in one.get(f"{SD}/sd-models").text for one in (cluster.ann, cluster.bob))


def test_everybody_has_own_jobs_and_progress(cluster: Cluster):
    job = cluster.names["job"]
    assert job in cluster.ann.get(f"{SD}/jobs").text and job not in cluster.bob.get(f"{SD}/jobs").text
    assert cluster.bob.get(f"{SD}/progress").json()["state"]["job_count"] == 0
    question = {"id_task": job, "live_preview": True}
    seen = cluster.bob.post("/internal/progress", json=question).json()
    assert not seen["active"] and not seen["completed"] and seen["live_preview"] is None
    assert cluster.bob.get("/internal/pending-tasks").json() == {"size": 0, "tasks": []}


def test_everybody_has_own_settings_and_folders(cluster: Cluster):
    assert cluster.ann.get(f"{SD}/options").json()["CLIP_stop_at_last_layers"] == 2
    assert cluster.bob.get(f"{SD}/options").json()["CLIP_stop_at_last_layers"] == 1
    assert cluster.services.options.snapshot().CLIP_stop_at_last_layers == 1
    flags = cluster.bob.get(f"{SD}/cmd-flags").json()
    assert flags["data_dir"] == str(cluster.home("bob")) and str(cluster.home("ann")) not in str(flags)
    assert cluster.names["result"].startswith(str(cluster.home("ann") / "mine"))
    cluster.bob.post(f"{SD}/options", json={"disable_all_extensions": "all"})
    assert cluster.bob.get(f"{SD}/options").json()["disable_all_extensions"] == "none"


def test_the_same_id_names_different_jobs(cluster: Cluster):
    cluster.services.generator.gate.set()
    body = {**PICTURE, "force_task_id": cluster.names["job"]}
    assert cluster.bob.post(f"{SD}/txt2img", json=body).status_code == 200
    assert cluster.bob.get(f"{SD}/jobs/{cluster.names['job']}").json()["summary"] == "a"
    mine = cluster.ann.get(f"{SD}/jobs/{cluster.names['job']}").json()
    assert mine["kind"] == "txt2img" and mine["created"] < cluster.bob.get(f"{SD}/jobs").json()[0]["created"]


def test_the_page_of_one_user_works_and_its_pictures_are_the_users_alone(cluster: Cluster, tmp_path):
    from gradio_client import Client

    cluster.services.generator.gate.set()
    page = Client(cluster.url, headers={HEADER: "ann"}, verbose=False, download_files=str(tmp_path))
    files, info = page.predict("a red apple", steps=2, width=64, height=64, api_name="/txt2img")
    assert files and "a red apple" in info
    cached = [path for path in (cluster.data / "tmp" / "page").glob("*/*.png") if path.name != "a.png"]
    assert 200 in [cluster.ann.get(f"{GRADIO}/file={path}").status_code for path in cached]
    assert all(cluster.bob.get(f"{GRADIO}/file={path}").status_code == 404 for path in cached)


# -- who is who ---------------------------------------------------------------------------------------------------

NAMELESS = [
    [], [""], ["ann", "bob"], ["ann", "ann"], ["ann,bob"], ["a\tb"], ["x" * 129], [b"\xff\xfe"],
    ["a\u202eb".encode()],
]  # fmt: skip


@pytest.mark.parametrize("values", NAMELESS)
@pytest.mark.parametrize("path", [f"{SD}/options", "/", "/config", f"{GRADIO}/info", f"{FILES}/list", "/docs"])
def test_without_one_good_name_nobody_comes_in(cluster: Cluster, values, path):
    headers = [(HEADER.encode(), value if isinstance(value, bytes) else value.encode()) for value in values]
    assert cluster.nobody.get(path, headers=headers).status_code == 401
    assert cluster.nobody.get("/health/live").status_code == 200


def call_from(client: tuple[str, int] | None, flags: list[str], headers: dict[str, str], tmp_path) -> int:
    app = create_app(fake_services(tmp_path, "--cluster", *flags))

    async def call() -> int:
        transport = httpx.ASGITransport(app, client=client)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as visitor:
            return (await visitor.get(f"{SD}/options", headers=headers)).status_code

    return asyncio.run(call())


PROXY = ["--user-header", "X-User", "--trusted-proxies", "10.0.0.0/8,fd00::/8"]
ANN = {"X-User": "ann"}


@pytest.mark.parametrize(
    ("client", "more", "headers", "status"),
    [
        (("10.1.2.3", 1), [], ANN, 200),
        (("fd00::1", 1), [], ANN, 200),
        (("::ffff:10.1.2.3", 1), [], ANN, 200),
        (("203.0.113.9", 1), [], ANN, 401),
        (("127.0.0.1", 1), [], ANN, 401),
        (("testclient", 1), [], ANN, 401),
        (None, [], ANN, 401),
        (("203.0.113.9", 1), [], {**ANN, "X-Forwarded-For": "10.1.2.3"}, 401),
        (("10.1.2.3", 1), [], {"X_User": "ann"}, 401),
        (("10.1.2.3", 1), ["--token", "t"], ANN, 401),
        (("10.1.2.3", 1), ["--token", "t"], {**ANN, "Authorization": "t"}, 200),
        (("203.0.113.9", 1), ["--token", "t"], {**ANN, "Authorization": "t"}, 401),
        (("203.0.113.9", 1), ["--api-auth", "bob:b"], {**ANN, "Authorization": "Basic Ym9iOmI="}, 200),
    ],
)
def test_the_header_is_believed_from_the_proxy_alone(client, more, headers, status, tmp_path):
    assert call_from(client, [*PROXY, *more], headers, tmp_path) == status


def test_from_elsewhere_the_log_in_says_who_it_is(tmp_path):
    services = fake_services(tmp_path, "--cluster", *PROXY, "--api-auth", "bob:b", "--gradio-auth", "carol:c")
    app = create_app(services)

    async def call(user: str, password: str) -> str:
        transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
        auth = httpx.BasicAuth(user, password)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", auth=auth) as visitor:
            return (await visitor.get(f"{SD}/cmd-flags", headers=ANN)).json().get("data_dir", "")

    assert asyncio.run(call("bob", "b")) == str(tmp_path / "users" / "bob")
    assert asyncio.run(call("carol", "c")) == str(tmp_path / "users" / "carol")
    assert asyncio.run(call("carol", "b")) == asyncio.run(call("ann", "")) == ""
