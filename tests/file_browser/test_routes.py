"""The routes: what is listed, sent and changed, and everything that must stay out of reach."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import pytest
from file_browser.tree import FileTree
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdwebui_api.config.flags import default_data_dir
from sdwebui_api.errors import BadRequest
from tests.file_browser.conftest import services_with_browser
from tests.support.server import run_in_thread

ATTACKS = (
    *("..", "../outside.txt", "outputs/../../outside.txt", "outputs/..", "outputs/../config.json"),
    *("/", "/etc/passwd", "//etc/passwd", "outputs//a.txt", "outputs/", "outputs/./a.txt", "./outputs", "."),
    *("..\\outside.txt", "outputs\\..\\..\\outside.txt", "outputs/a.txt\\", "C:\\Windows"),
    *("outputs/a.txt\0", "outputs/a.txt\0.png", "outputs\n", "outputs/\x1b[2J", "outputs/\x7f"),
    *("outputs/out", "outputs/out/outside.txt", "outputs/out.txt", "elsewhere", "elsewhere/outside.txt"),
    *("outputs/code", "outputs/code/x.py", "outputs/settings.txt", "outputs/out/data/config.json"),
    *("config.json", "queue.sqlite3", "queue.sqlite3-wal", "models/tokens.txt", "models/tokens.txt/x"),
    *(".git", ".git/config", "models/.hidden", "models/.hidden/key", "models/.upload-0.part"),
    *("extensions", "extensions/x.py", "Extensions/x.py", "EXTENSIONS", "scripts", "cache", "tmp/page", "users/a"),
    *("outputs/%2e%2e/%2e%2e/outside.txt/..", "~/x", "~root/.ssh/id_rsa", "file:///etc/passwd", "outputs/\u2025/../x"),
)  # fmt: skip
LONG = "n" * 300


def names(client: httpx.Client, path: str = "") -> list[str]:
    answer = client.get("list", params={"path": path})
    assert answer.status_code == 200, answer.text
    return [entry["name"] for entry in answer.json()["entries"]]


def everything(home: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(home)): path.read_bytes() if path.is_file() else None
        for path in home.rglob("*")
        if "queue" not in path.name
    }


class TestListing:
    def test_open_folders_are_listed_and_nothing_else(self, client: httpx.Client) -> None:
        assert names(client) == ["mine", "models", "outputs"]
        assert names(client, "models") == ["Stable-diffusion"]
        assert names(client, "outputs") == ["deep", "a.txt", "inner.txt"]

    def test_a_row(self, client: httpx.Client, data: Path) -> None:
        (data / "mine" / "b.PNG").write_bytes(b"12")
        row = client.get("list", params={"path": "mine"}).json()["entries"][0]
        assert row.pop("modified") > 1e9
        assert row == {"name": "b.PNG", "kind": "file", "size": 2, "picture": True}

    def test_what_is_not_there(self, client: httpx.Client) -> None:
        assert client.get("list", params={"path": "outputs/none"}).status_code == 404
        assert client.get("list", params={"path": "outputs/a.txt"}).status_code == 422
        assert client.get("download", params={"path": "outputs/deep"}).status_code == 422
        assert client.get("download").status_code == 422


class TestAttacks:
    @pytest.mark.parametrize("path", ATTACKS)
    def test_nothing_is_reached_by(self, attacked: tuple[httpx.Client, Path], path: str) -> None:
        """Each route, with the path in each place."""
        client, data = attacked
        before = everything(data.parent)
        upload = {"path": path, "size": 1, "id": "x", "offset": 0, "replace": True}
        answers = [
            *(client.get(route, params={"path": path}) for route in ("list", "download", "preview")),
            client.put("folder", params={"path": path}),
            client.put("folder", params={"path": f"{path}/new"}),
            client.patch("entry", json={"path": path, "to": "mine/stolen"}),
            client.patch("entry", json={"path": "outputs/a.txt", "to": path}),
            client.patch("entry", json={"path": "outputs/a.txt", "to": f"{path}/new"}),
            client.delete("entry", params={"path": path, "recursive": True}),
            client.get("upload", params=upload),
            client.put("upload", params=upload, content=b"x"),
            client.put("upload", params=upload | {"path": f"{path}/new"}, content=b"x"),
            client.delete("upload", params=upload),
        ]
        assert {answer.status_code for answer in answers} <= {403, 404, 409, 422}, [a.status_code for a in answers]
        assert all("secret" not in answer.text for answer in answers)
        assert everything(data.parent) == before

    @pytest.mark.parametrize("name", [LONG, "ä" * 150, "a:b", "con", "a?", "trailing.", "trailing ", "x" * 5000])
    def test_names_that_cannot_be(self, client: httpx.Client, name: str) -> None:
        for answer in (
            client.put("folder", params={"path": f"mine/{name}"}),
            client.patch("entry", json={"path": "outputs/a.txt", "to": f"mine/{name}"}),
            client.get("upload", params={"path": f"mine/{name}", "size": 1, "id": "x"}),
        ):
            assert answer.status_code == 422, answer.text

    def test_lone_surrogates(self, client: httpx.Client) -> None:
        body = b'{"path": "outputs/a.txt", "to": "mine/\\ud800"}'
        answer = client.patch("entry", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 403

    def test_log_in_is_asked_for(self, client: httpx.Client) -> None:
        assert client.get("list", headers={"Authorization": "Bearer wrong"}).status_code == 401

    def test_a_log_in_of_the_page_holds_here_too(self, data: Path) -> None:
        with run_in_thread(services_with_browser(data, "--filebrowser", "--gradio-auth", "a:b")) as url:
            for method, route in (("GET", "list"), ("PUT", "upload"), ("DELETE", "entry")):
                fields = {"path": "outputs/a.txt", "size": 1, "id": "x", "replace": True}
                answer = httpx.request(method, f"{url}/file_browser/v1/{route}", params=fields, timeout=60)
                assert answer.status_code == 401
        assert (data / "outputs" / "a.txt").exists()

    def test_no_simple_request_of_another_site_changes_anything(self, client: httpx.Client) -> None:
        for route in ("folder", "entry", "upload"):
            answer = client.post(route, content=b'{"path": "outputs/a.txt", "to": "mine/a"}')
            assert answer.status_code == 405

    def test_without_the_flag_there_are_no_routes(self, data: Path) -> None:
        with run_in_thread(services_with_browser(data)) as url:
            assert httpx.get(f"{url}/file_browser/v1/list", timeout=60).status_code == 404

    def test_of_the_checkout_only_folders_of_content_are_open(self) -> None:
        tree = FileTree(Path(default_data_dir()))
        for path in ("sdwebui_api", "tests", "launch.py", ".git", "docs/eas.md", "newfolder"):
            with pytest.raises(BadRequest):
                tree.place(path, "path")
        assert tree.place("model_store/Stable-diffusion", "path").is_dir()

    def test_a_content_folder_may_be_a_link_of_the_owner(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "x.bin").write_bytes(b"1")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "models").symlink_to(tmp_path / "disk")
        assert FileTree(tmp_path / "data").file("models/x.bin").read_bytes() == b"1"


class TestDownload:
    def test_whole_and_in_parts(self, client: httpx.Client) -> None:
        whole = client.get("download", params={"path": "outputs/a.txt"})
        assert whole.content == b"0123456789"
        assert "attachment" in whole.headers["content-disposition"]
        assert whole.headers["x-content-type-options"] == "nosniff"
        rest = client.get("download", params={"path": "outputs/inner.txt"}, headers={"Range": "bytes=4-"})
        assert (rest.status_code, rest.content) == (206, b"456789")
        assert rest.headers["content-range"] == "bytes 4-9/10"
        beyond = client.get("download", params={"path": "outputs/a.txt"}, headers={"Range": "bytes=99-"})
        assert beyond.status_code == 416

    def test_a_page_among_the_files_is_not_shown(self, client: httpx.Client, data: Path) -> None:
        (data / "outputs" / "x.html").write_text("<script>alert(1)</script>")
        answer = client.get("download", params={"path": "outputs/x.html"})
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-security-policy"] == "sandbox"


class TestPreview:
    def test_a_picture_with_its_infotext(self, client: httpx.Client, data: Path) -> None:
        info = PngInfo()
        info.add_text("parameters", "a red apple\nSteps: 20")
        Image.new("RGB", (2000, 500), "red").save(data / "outputs" / "p.png", pnginfo=info)
        answer = client.get("preview", params={"path": "outputs/p.png"}).json()
        assert (answer["width"], answer["height"], answer["infotext"]) == (2000, 500, "a red apple\nSteps: 20")
        kind, _, encoded = answer["picture"].partition(";base64,")
        assert kind == "data:image/webp"
        assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (768, 192)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
    def test_every_kind_of_picture(self, client: httpx.Client, data: Path, mode: str) -> None:
        Image.new(mode, (9, 7)).save(data / "outputs" / "p.png")
        assert client.get("preview", params={"path": "outputs/p.png"}).status_code == 200

    def test_what_is_no_picture(self, client: httpx.Client) -> None:
        assert client.get("preview", params={"path": "outputs/a.txt"}).status_code == 422


class TestChanges:
    def test_a_folder_is_made_renamed_and_deleted(self, client: httpx.Client, data: Path) -> None:
        assert client.put("folder", params={"path": "mine/新 folder"}).status_code == 200
        assert client.put("folder", params={"path": "mine/新 folder"}).status_code == 409
        assert client.put("folder", params={"path": "mine/none/below"}).status_code == 404
        assert client.patch("entry", json={"path": "mine/新 folder", "to": "outputs/b"}).status_code == 200
        assert (data / "outputs" / "b").is_dir()
        assert client.delete("entry", params={"path": "outputs/b"}).status_code == 200
        assert client.delete("entry", params={"path": "outputs/b"}).status_code == 404

    def test_a_top_folder_is_made_and_stays(self, client: httpx.Client, data: Path) -> None:
        assert client.put("folder", params={"path": "more"}).status_code == 200
        assert "more" in names(client)
        assert client.delete("entry", params={"path": "more"}).status_code == 403
        assert client.patch("entry", json={"path": "more", "to": "mine/more"}).status_code == 403
        assert client.patch("entry", json={"path": "outputs/deep", "to": "deep"}).status_code == 403

    def test_renaming_replaces_nothing(self, client: httpx.Client, data: Path) -> None:
        (data / "mine" / "b.txt").write_text("b")
        assert client.patch("entry", json={"path": "mine/b.txt", "to": "outputs/a.txt"}).status_code == 409
        assert client.patch("entry", json={"path": "outputs/deep", "to": "outputs/deep/er"}).status_code == 422
        assert client.patch("entry", json={"path": "mine/b.txt", "to": "outputs/c.txt"}).status_code == 200
        assert (data / "outputs" / "c.txt").read_text() == "b" and not (data / "mine" / "b.txt").exists()

    def test_a_full_folder_goes_only_when_that_is_meant(self, client: httpx.Client, data: Path) -> None:
        (data / "outputs" / "deep" / "x").write_text("x")
        assert client.delete("entry", params={"path": "outputs/deep"}).status_code == 409
        assert client.delete("entry", params={"path": "outputs/deep", "recursive": True}).status_code == 200
        assert names(client, "outputs") == ["a.txt", "inner.txt"]

    def test_of_a_link_only_the_link_goes(self, client: httpx.Client, data: Path) -> None:
        assert client.delete("entry", params={"path": "outputs/inner.txt", "recursive": True}).status_code == 200
        assert (data / "outputs" / "a.txt").exists()

    def test_a_folder_with_a_protected_file_stays(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "mine" / "conf").mkdir(parents=True)
        kept = tmp_path / "data" / "mine" / "conf" / "tokens"
        kept.write_text("secret")
        tree = FileTree(tmp_path / "data", (kept,))
        with pytest.raises(BadRequest):
            tree.changeable("mine/conf")
