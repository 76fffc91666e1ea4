"""Cards of extra networks: what stands on them, what their addresses give away, what is written beside a model."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.catalog.beside import About, Neighbours, write_about
from sdwebui_api.errors import SdWebUIError
from sdwebui_api.webui.generation.network_cards import harmless_html
from sdwebui_api.webui.generation.network_kinds import path_of
from sdwebui_api.webui.generation.networks import cards_of, in_order
from tests.support.fakes import fake_services


@pytest.fixture
def services(tmp_path):
    """Three LoRAs: a plain one, one with all that can stand beside it in a folder, one in a hidden folder."""
    folder = tmp_path / "loras"
    for name in ("plain", "styles/rich", ".secret/hidden"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({"weight": np.zeros(1, np.float32)}, folder / f"{name}.safetensors")
    Image.new("RGBA", (900, 1200), "red").save(folder / "styles" / "rich.preview.png")
    about = {
        "description": "<b>Bold</b><img src=x onerror=alert(1)>",
        "activation text": "in ink",
        "preferred weight": 0.6,
    }
    (folder / "styles" / "rich.json").write_text(json.dumps({**about, "sd version": "SD1"}))
    (tmp_path / "outside.png").write_bytes((folder / "styles" / "rich.preview.png").read_bytes())
    services = fake_services(tmp_path, "--lora-dir", str(folder))
    services.catalog.loras.refresh()
    return services


def card(html, name):
    return re.search(rf'<div class="network-card"[^>]*title="{name}".*?</div>', html, re.S)[0]


def test_cards_say_what_a_click_writes(services):
    services.options.update({"extra_networks_default_multiplier": 0.8, "extra_networks_card_width": 99})
    html = cards_of(services, "lora")
    assert 'data-text="&lt;lora:plain:0.8&gt;"' in card(html, "plain")
    assert "<img" not in card(html, "plain")
    rich = card(html, "rich")
    assert 'data-text="&lt;lora:rich:0.6&gt;"' in rich and 'data-more="in ink"' in rich
    assert "&lt;b&gt;Bold&lt;/b&gt;" in rich and "onerror=alert" in rich and "<img src=x" not in rich
    assert "data-secret" in card(html, "hidden") and "--card-width:99px" in html
    services.options.update({"extra_networks_hidden_models": "Never", "extra_networks_card_show_desc": False})
    assert "hidden.safetensors" not in cards_of(services, "lora") and "Bold" not in cards_of(services, "lora")


def test_orders_of_cards_and_of_their_tabs(services):
    def names():
        return re.findall(r'class="network-card"[^>]*title="(\w+)"', cards_of(services, "lora"))

    services.options.update({"extra_networks_hidden_models": "Always", "extra_networks_card_order_field": "Name"})
    by_name = sorted(names())
    assert names() == by_name
    services.options.update({"extra_networks_card_order": "Descending"})
    assert names() == by_name[::-1]
    assert in_order("Checkpoints, Textual Inversion")[:2] == ["checkpoints", "textual_inversion"]


def test_descriptions_keep_simple_tags_alone():
    assert harmless_html('<b onclick="x">a</i></b><br><script>b</script><i>c') == (
        "<b>a</b><br>&lt;script&gt;b<i>c</i>"
    )


def test_pictures_of_the_folders_alone_are_served_small(services):
    client = TestClient(create_app(services))
    address = re.search(r'<img[^>]*src="([^"]+)"', card(cards_of(services, "lora"), "rich"))[1]
    answer = client.get("/" + address.replace("&amp;", "&"))
    assert answer.status_code == 200
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "JPEG" and image.size == (320, 427)
    for file in (
        "../outside.png",
        "styles/../../outside.png",
        "/etc/passwd",
        "styles/rich.json",
        "x" * 400 + ".png",
        "\0.png",
    ):
        assert client.get("/sd_extra_networks/thumb", params={"kind": "lora", "file": file}).status_code == 404, file
    wrong = client.get("/sd_extra_networks/thumb", params={"kind": "nothing", "file": "a.png"})
    assert wrong.status_code == 422 and "textual_inversion" in wrong.text


def test_pictures_as_clients_of_a1111_ask_for_them(services, tmp_path):
    """By the path that /sdapi/v1/loras tells, and relative to A1111's own folder; the file as it is."""
    client = TestClient(create_app(services))
    paths = {row["name"]: row["path"] for row in client.get("/sdapi/v1/loras").json()}
    beside = paths["rich"].replace(".safetensors", ".preview.png")
    for name in (beside, "models/Lora/styles/rich.preview.png", "./models/Lora/styles/rich.preview.png"):
        answer = client.get("/sd_extra_networks/thumb", params={"filename": name, "mtime": "1.5"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), name
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (900, 1200)
    folder = tmp_path / "loras"
    (folder / "link.png").symlink_to(folder / "styles" / "rich.json")
    for name in (
        str(tmp_path / "outside.png"),
        f"{folder}/../outside.png",
        f"{folder}/styles/rich.json",
        f"{folder}/link.png",
        paths["plain"],
        beside.replace(".preview.png", ".jpg"),
        f"{folder}-other/x.png",
        "models/Lora/../../outside.png",
        "../outside.png",
        "x.png",
        "",
        "\0.png",
        "x" * 4000,
    ):
        assert client.get("/sd_extra_networks/thumb", params={"filename": name}).status_code == 404, name


def test_metadata_as_clients_of_a1111_ask_for_them(services, tmp_path):
    written = {"ss_tag_frequency": '{"a": {"cat": 1}}', "ss_output_name": "猫", "ssmd_cover_images": "[...]"}
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "loras" / "told.safetensors", metadata=written)
    services.catalog.loras.refresh()
    client = TestClient(create_app(services))

    def asked(**query):
        return client.get("/sd_extra_networks/metadata", params=query).json()

    text = asked(page="lora", item="told")["metadata"]
    assert json.loads(text) == {"ss_tag_frequency": {"a": {"cat": 1}}, "ss_output_name": "猫"} and "猫" in text
    assert asked(page="lora", item="plain") == asked(page="lora", item="../plain") == asked(page="x") == asked() == {}


def test_what_is_written_about_a_model_is_read_again(services):
    path = path_of(services, json.dumps({"kind": "lora", "file": "styles/rich"}))
    write_about(path, About("new", "by hand", "blurry", 1.2, "note"))
    assert Neighbours().about(path) == About("new", "by hand", "blurry", 1.2, "note")
    assert json.loads(path.with_suffix(".json").read_text())["sd version"] == "SD1"
    for asked in (
        "",
        "[]",
        '{"kind": "lora", "file": "../plain"}',
        '{"kind": "x", "file": "plain"}',
        '{"kind": [], "file": 1}',
    ):
        with pytest.raises(SdWebUIError):
            path_of(services, asked)
