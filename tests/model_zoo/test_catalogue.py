"""The list that ships, the owner's own list, and who may use the routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdwebui_api.config.flags import UserFlags, parse_flags
from sdwebui_api.errors import BadRequest
from sdwebui_api.webui.localization.texts import load_texts
from tests.model_zoo.conftest import Zoo, running_zoo, services_with_zoo
from tests.support.hosts import Host
from tests.support.server import run_in_thread


def test_what_ships_is_complete(tmp_path: Path) -> None:
    from model_zoo.catalogue import place_of, read_catalogue

    catalogue = read_catalogue(tmp_path)
    assert catalogue.problems == () and len(catalogue.entries) >= 15
    flags = parse_flags(["--data-dir", str(tmp_path)])
    places = {place_of(entry, flags).target for entry in catalogue.entries.values()}
    assert len(places) == len(catalogue.entries)
    assert all(tmp_path / "model_store" in place.parents for place in places)
    chinese = load_texts().tables["zh_CN"]
    for entry in catalogue.entries.values():
        assert entry.description in chinese
        assert entry.url.startswith("https://") and entry.homepage and entry.size


def test_entries_of_the_owner_stand_beside_those_that_ship(zoo: Zoo) -> None:
    zoo.offer(zoo.entry(size=None, sha256=None), zoo.entry(id="second", kind="lora", file="sub/second.pt"))
    found = zoo.all()
    assert found["problems"] == [] and found["local_catalogue"] == str(zoo.data / "model_zoo.json")
    rows = {row["id"]: row for row in found["models"]}
    assert rows["tiny"]["local"] and not rows["sd15"]["local"]
    assert (rows["tiny"]["size"], rows["tiny"]["sha256"], rows["tiny"]["file"]) == (None, None, "tiny.safetensors")
    zoo.offer(zoo.entry(id="sd15", name="From our mirror"))
    assert [row["name"] for row in zoo.all()["models"] if row["id"] == "sd15"] == ["From our mirror"]
    assert rows["second"]["folder"] == str(zoo.data / "models" / "Lora" / "sub")
    assert zoo.start("third").status_code == 404


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "way up": ({"file": "../../evil.pt"}, "models[0].file"),
    "absolute": ({"file": "/etc/evil.pt"}, "models[0].file"),
    "hidden": ({"file": ".evil.pt"}, "models[0].file"),
    "backslash": ({"file": "a\\b.pt"}, "models[0].file"),
    "program": ({"file": "evil.py"}, "models[0].file: expected a name that ends in .safetensors"),
    "nameless URL": ({"url": "http://example.org/"}, "models[0].file"),
    "file URL": ({"url": "file:///etc/passwd"}, "models[0].url"),
    "checksum": ({"sha256": "abc"}, "models[0].sha256"),
    "kind": ({"kind": "video"}, "models[0].kind: Input should be 'checkpoint'"),
    "size": ({"size": 0}, "models[0].size"),
    "typing error": ({"sha265": "abc"}, "models[0].sha265"),
    "no licence": ({"licence": None}, "models[0].licence"),
    "taken": ({"id": "good"}, "models[1].id: there is a 'good' already"),
    "homepage": ({"homepage": "javascript:alert(1)"}, "models[0].homepage"),
}


def test_wrong_entries_are_named_and_left_out(zoo: Zoo) -> None:
    for name, (change, words) in WRONG.items():
        zoo.offer(zoo.entry(**change), zoo.entry(id="good"))
        found = zoo.all()
        assert any(f"model_zoo.json: {words}" in problem for problem in found["problems"]), (name, found["problems"])
        local = [row["id"] for row in found["models"] if row["local"]]
        assert local == ["good"], name


@pytest.mark.parametrize("text", ["{", "[]", '{"models": 3}', "[" * 100_000, "\udcff", '{"models": [null, 3]}'])
def test_what_is_no_catalogue_at_all_leaves_the_rest(zoo: Zoo, text: str) -> None:
    (zoo.data / "model_zoo.json").write_bytes(text.encode(errors="surrogateescape"))
    found = zoo.all()
    assert len(found["models"]) >= 15
    assert found["problems"] and all(one.startswith("model_zoo.json: ") for one in found["problems"])
    assert json.dumps(found)


def test_a_users_downloads_go_into_folders_of_the_users_own(tmp_path: Path) -> None:
    from model_zoo.catalogue import place_of, read_catalogue

    server = parse_flags(["--data-dir", str(tmp_path), "--embeddings-dir", str(tmp_path / "shared")])
    home = tmp_path / "users" / "ann"
    entries = read_catalogue(tmp_path).entries
    own = place_of(entries["sd15"], UserFlags.of(server, home))
    assert home in own.target.parents
    embedding = entries["sd15"].model_copy(update={"kind": "embedding"})
    with pytest.raises(BadRequest, match="share"):
        place_of(embedding, UserFlags.of(server, home))


def test_credentials_guard_the_routes(tmp_path: Path) -> None:
    with run_in_thread(services_with_zoo(tmp_path, "--token", "secret")) as url:
        assert httpx.get(f"{url}/model_zoo/v1/models", timeout=60).status_code == 401
        assert httpx.put(f"{url}/model_zoo/v1/download?id=sd15", timeout=60).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert httpx.get(f"{url}/model_zoo/v1/models", headers=headers, timeout=60).status_code == 200


def test_a_log_in_guards_them_too(tmp_path: Path, host: Host) -> None:
    with running_zoo(tmp_path, host, "--gradio-auth", "a:b") as zoo:
        assert zoo.client.get("models").status_code == 401 and zoo.start("sd15").status_code == 401
