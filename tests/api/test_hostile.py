"""What broke when the running server was attacked: each of these ended in a 500, a frozen loop, or eaten memory."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sdwebui_api.api.factory import create_app
from sdwebui_api.api.middleware import MAX_COMMAS, BodyLimit

T2I, I2I = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
SMALL = {"prompt": "an apple", "steps": 1, "width": 64, "height": 64}
SURROGATE = "\ud800"


def picture(size=(16, 16)) -> str:
    data = io.BytesIO()
    Image.new("L", size).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def post(client, path, body):
    # As a client sends it: ASCII, with the lone surrogate as an escape.
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "field", ["script_args", "comments", "alwayson_scripts", "override_settings"]
)  # they are echoed, whatever they hold
@pytest.mark.parametrize("value", [{"a": SURROGATE}, {SURROGATE: 1}, {"a": [{"b": [SURROGATE]}]}])
def test_broken_unicode_is_refused_however_deep(client, field, value):
    answer = post(client, T2I, {**SMALL, field: [value] if field == "script_args" else value})
    assert answer.status_code == 422
    assert field in answer.text


def test_deep_values_are_read_without_recursion(client):
    assert post(client, T2I, {**SMALL, "script_args": nested(500)}).status_code == 200


@pytest.mark.parametrize("value", [SURROGATE, f"a{SURROGATE}b"])
def test_options_refuse_what_no_file_can_hold(client, value):
    answer = post(client, "/sdapi/v1/options", {"samples_filename_pattern": value})
    assert answer.status_code == 422
    assert "samples_filename_pattern" in answer.text


def test_an_error_may_quote_broken_unicode(client):
    answer = post(client, "/sdapi/v1/options", {"n_rows": SURROGATE, "hidden_tabs": {SURROGATE: 1}})
    assert answer.status_code == 422


@pytest.mark.parametrize("value", [1, 7])
@pytest.mark.parametrize("field", ["firstphase_width", "firstphase_height"])
def test_a_first_phase_of_less_than_a_cell(client, field, value):
    answer = post(client, T2I, {**SMALL, field: value})
    assert answer.status_code == 422
    assert field in answer.text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        # 8192 wide from 8 pixels means a million high
        ({"width": 8, "height": 8192, "hr_resize_x": 8192}, "hr_resize_x"),
        ({"width": 8192, "height": 8, "hr_resize_y": 8192}, "hr_resize_y"),
        ({"width": 8192, "height": 8, "hr_resize_x": 64, "hr_resize_y": 8192}, "hr_resize_x"),
        ({"width": 8192, "height": 8, "hr_resize_x": 64}, "hr_resize_x"),
        ({"hr_resize_y": 1}, "hr_resize_y"),
        ({"hr_scale": 0.01}, "hr_scale"),
    ],
)
def test_the_second_pass_is_measured_before_it_is_cropped(client, fields, named):
    answer = post(client, T2I, {**SMALL, "enable_hr": True, "denoising_strength": 0.5, **fields})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", named]


def test_pictures_of_a_request_fit_into_memory(client):
    answer = post(client, T2I, {**SMALL, "width": 4096, "height": 4096, "n_iter": 1000})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "n_iter"]


def test_start_images_together_fit_into_memory(client):
    """Each is allowed, and a few kilobytes small; 128 of them would unpack to 8 GB."""
    images = [picture((8192, 8192))] * 3
    answer = post(client, I2I, {**SMALL, "init_images": images, "batch_size": 3})
    assert answer.status_code == 413
    assert "init_images[2]" in answer.text


def test_latent_resizing_needs_a_latent(client):
    answer = post(client, I2I, {**SMALL, "init_images": [picture((1, 300))], "resize_mode": 3})
    assert answer.status_code == 422
    assert "init_images" in answer.text


def test_a_body_of_millions_of_values_is_refused_unparsed(client):
    answer = client.post(T2I, content=b'{"script_args":[' + b"1," * (MAX_COMMAS + 1) + b"1]}")
    assert answer.status_code == 413
    assert "values" in answer.text


def test_bodies_that_wait_have_a_budget(services):
    """One body may have it all; what comes beside it is turned away until it is answered."""
    app = create_app(services)
    client = TestClient(app)
    assert client.post(T2I, json=SMALL).status_code == 200
    limit = app.middleware_stack
    while not isinstance(limit, BodyLimit):
        limit = limit.app
    assert limit._held == 0
    limit._held = limit.budget
    answer = client.post(T2I, json=SMALL)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    limit._held = 0
    assert client.post(T2I, json=SMALL).status_code == 200


def test_ids_with_slashes_have_an_address(client):
    assert post(client, T2I, {**SMALL, "force_task_id": "a/b"}).status_code == 200
    assert client.get("/sdapi/v1/jobs/a%2Fb").json()["id"] == "a/b"
    assert "event: done" in client.get("/sdapi/v1/jobs/a%2Fb/events").text
    assert client.delete("/sdapi/v1/jobs/a%2Fb").json()["state"] == "done"


def test_waiting_tasks_of_others_are_not_listed(services):
    services.flags = type(services.flags)(**{**vars(services.flags), "api_auth": "ann:x,bob:y"})
    client = TestClient(create_app(services))
    services.generator.gate.clear()
    gate = services.generator.gate
    jobs = [services.runner.submit(lambda job: gate.wait(60), kind="x", user="ann") for _ in range(2)]
    try:
        assert client.get("/internal/pending-tasks", auth=("bob", "y")).json() == {"size": 0, "tasks": []}
        assert client.get("/internal/pending-tasks", auth=("ann", "x")).json()["tasks"] == [jobs[1].id]
    finally:
        services.generator.gate.set()


def test_an_id_cannot_write_log_lines(client, caplog):
    caplog.set_level("INFO", "sdwebui_api.access")
    post(client, T2I, {**SMALL, "force_task_id": "a\nERROR root: gone"})
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_broken_avif_is_the_clients_mistake(client):
    data = bytearray(io.BytesIO().getvalue())
    buffer = io.BytesIO()
    try:
        Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 9).convert("RGB").save(buffer, "AVIF")
    except (KeyError, OSError):
        pytest.skip("Pillow without AVIF")
    data = bytearray(buffer.getvalue())
    for position in range(8, len(data), 7):
        broken = bytes(data[:position]) + b"\xff" + bytes(data[position + 1 :])
        answer = post(client, "/sdapi/v1/png-info", {"image": base64.b64encode(broken).decode()})
        assert answer.status_code < 500


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "JPEG"])
def test_what_a_file_notes_in_bytes_is_told_where_it_is_text(client, kind):
    """A palette's transparency is bytes that are no text: in every second small PNG."""
    buffer = io.BytesIO()
    image = Image.new("RGB", (8, 8), "red")
    notes = {
        "GIF": {"comment": b"\xff\xfe"},
        "WEBP": {"xmp": b"\xff\xfe"},
        "JPEG": {"comment": b"\xff", "xmp": b"<x/>"},
    }
    more = notes.get(kind, {"transparency": bytes([255, 128])})
    (image.convert("P") if kind in ("PNG", "GIF") else image).save(buffer, kind, **more)
    answer = post(client, "/sdapi/v1/png-info", {"image": base64.b64encode(buffer.getvalue()).decode()})
    assert answer.status_code == 200
    told = {"GIF": {"version": "GIF89a"}, "JPEG": {"xmp": "<x/>"}}
    assert answer.json()["items"] == told.get(kind, {})
