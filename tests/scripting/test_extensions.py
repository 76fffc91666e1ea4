"""Extensions written for A1111, run unmodified over HTTP."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

T2I = "/sdapi/v1/txt2img"
SMALL = {
    "prompt": "a __colour__ apple", "seed": 5, "subseed": 1, "steps": 4, "width": 128, "height": 128,
    "sampler_name": "Euler a", "override_settings": {"randn_source": "CPU"},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(extended) -> Any:
    with httpx.Client(base_url=extended[0].url, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def log(extended) -> Any:
    return lambda: (extended[1] / "server.log").read_text()


def generate(client: Any, path: str = T2I, **body: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    answer = client.post(path, json={**SMALL, **body})
    assert answer.status_code == 200, answer.text[:2000]
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer.json()["images"]]
    return images, json.loads(answer.json()["info"])


def alwayson(name: str, *args: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {name: {"args": list(args)}}}


def test_listed(client):
    titles = client.get("/sdapi/v1/scripts").json()["txt2img"]
    assert {"simple wildcards", "cfg rescale", "watermark", "troublemaker", "twice"} <= set(titles)
    rows = {row["name"]: row for row in client.get("/sdapi/v1/script-info").json() if not row["is_img2img"]}
    wildcards = rows["simple wildcards"]
    assert wildcards["is_alwayson"]
    assert [arg["label"] for arg in wildcards["args"]] == ["Wildcards enabled", "How to choose", "Offset"]
    assert wildcards["args"][2] == {
        "label": "Offset", "value": 0, "minimum": 0, "maximum": 10, "step": 1, "choices": None
    }  # fmt: skip
    assert wildcards["args"][1]["choices"] == ["random", "by number"]
    assert not rows["twice"]["is_alwayson"]
    names = {row["name"] for row in client.get("/sdapi/v1/extensions").json()}
    assert names >= {"sd-wildcards", "watermark", "broken-on-load"}


def test_a_broken_extension_does_not_stop_the_server(log):
    assert "broken.py could not be loaded" in log()
    assert "modules.sd_hijack_optimizations is not offered by this server" in log()


def test_wildcards_run_with_their_defaults(client):
    _, info = generate(client, n_iter=2, batch_size=2)
    colours = {"a red apple", "a green apple", "a blue apple"}
    assert set(info["all_prompts"]) <= colours and len(info["all_prompts"]) == 4
    assert all("__" not in text.splitlines()[0] for text in info["infotexts"])
    assert "Wildcard prompt: a __colour__ apple" in info["infotexts"][0]
    assert [text.split("Wildcard number: ")[1].split(",")[0] for text in info["infotexts"]] == [
        "0 of 4", "1 of 4", "2 of 4", "3 of 4"
    ]  # fmt: skip
    assert info["extra_generation_params"]["Wildcard number"] is None


def test_wildcards_change_the_picture_as_the_plain_prompt_would(client):
    args = [True, "by number", 1]
    (picture,), info = generate(client, **alwayson("simple WILDCARDS", *args))
    assert info["prompt"] == "a green apple"
    (plain,), _ = generate(client, prompt="a green apple")
    assert picture.tobytes() == plain.tobytes()
    (other,), _ = generate(client, prompt="a red apple")
    assert picture.tobytes() != other.tobytes()


def test_arguments_by_name_and_too_many(client):
    body = {"alwayson_scripts": {"Simple wildcards": {"args": {"How to choose": "by number", "offset": 2}}}}
    assert generate(client, **body)[1]["prompt"] == "a blue apple"
    assert generate(client, **alwayson("Simple wildcards", True, "by number", 2, "and", "more"))[1]["prompt"] == (
        "a blue apple"
    )
    assert generate(client, **alwayson("Simple wildcards", False))[1]["prompt"] == "a __colour__ apple"


def test_settings_of_extensions(client):
    assert client.get("/sdapi/v1/options").json()["wildcards_same_seed"] is False
    settings = {**SMALL["override_settings"], "wildcards_same_seed": True}
    _, info = generate(client, batch_size=3, override_settings=settings)
    assert len(set(info["all_prompts"])) == 1
    assert client.get("/sdapi/v1/options").json()["wildcards_same_seed"] is False
    assert client.post("/sdapi/v1/options", json={"wildcards_same_seed": True}).status_code == 200
    assert client.get("/hello-api/about").json()["same_seed"] is True
    client.post("/sdapi/v1/options", json={"wildcards_same_seed": False})


def test_latent_modifier(client):
    plain, _ = generate(client, prompt="an apple")
    settings = {**SMALL["override_settings"], "cfg_rescale_test_factor": "0.5"}
    changed, info = generate(
        client, prompt="an apple", override_settings=settings, **alwayson("CFG Rescale", True, 0.7)
    )
    assert plain[0].tobytes() != changed[0].tobytes()
    assert info["extra_generation_params"]["CFG rescale"] == 0.7
    assert info["warnings"] == []
    # Both instances of the script (one per endpoint) registered their callback, as in A1111.
    assert info["extra_generation_params"]["CFG rescale steps"] == 2 * 4
    assert info["warnings"] == []
    same, _ = generate(client, prompt="an apple", **alwayson("CFG Rescale", True, 0.7))
    assert plain[0].tobytes() == same[0].tobytes()


def test_a_callback_for_one_request(client):
    """The script registers it while it runs and keeps its counter on itself; other requests notice nothing."""
    (plain,), _ = generate(client, prompt="an apple")
    bodies = [
        {"prompt": "an apple", "steps": steps, **alwayson("Detail Knob", True, 0.1 * steps)} for steps in (4, 6, 8)
    ]
    bodies.append({"prompt": "an apple"})
    alone = [generate(client, **body) for body in bodies]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda body: generate(client, **body), bodies))
    for (images, info), (expected, known) in zip(together, alone, strict=True):
        assert info["warnings"] == [] == known["warnings"]
        assert info["extra_generation_params"] == known["extra_generation_params"]
        assert close(images[0], expected[0])
    assert not close(alone[0][0][0], plain)
    assert alone[3][0][0].tobytes() == plain.tobytes()


def close(image: Image.Image, other: Image.Image) -> bool:
    """A shared forward pass rounds differently."""
    return max(abs(a - b) for a, b in zip(image.tobytes(), other.tobytes(), strict=True)) <= 3


def test_image_postprocessor(client):
    (picture,), info = generate(client, prompt="an apple", **alwayson("Watermark", True, "mine"))
    assert picture.getpixel((5, 5)) == (255, 0, 255)
    assert "Watermark: mine" in info["infotexts"][0] and "Watermark: mine" in picture.info["parameters"]
    (plain,), _ = generate(client, prompt="an apple")
    assert plain.getpixel((5, 5)) != (255, 0, 255)
    assert plain.crop((20, 20, 128, 128)).tobytes() == picture.crop((20, 20, 128, 128)).tobytes()


def test_a_run_within_a_run(client):
    (picture,), info = generate(client, prompt="an apple", **alwayson("Watermark", True, "x", True))
    (plain,), _ = generate(client, prompt="an apple")
    assert info["warnings"] == []
    assert info["extra_generation_params"]["Repainted with"] == "a blue star"
    assert plain.crop((70, 70, 128, 128)).tobytes() != picture.crop((70, 70, 128, 128)).tobytes()
    assert plain.crop((20, 20, 50, 50)).tobytes() == picture.crop((20, 20, 50, 50)).tobytes()


def test_hooks_come_in_the_right_order(client):
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.5}
    _, info = generate(client, prompt="an apple", n_iter=2, **hires, **alwayson("Watermark", True, "order"))
    batch = [
        "before_process_batch", "process_batch", "process_before_every_sampling", "before_hr",
        "process_before_every_sampling", "post_sample", "postprocess_batch", "postprocess_batch_list",
        "postprocess_image", "postprocess_image_after_composite",
    ]  # fmt: skip
    expected = ["before_process", "process", *batch, *batch, "postprocess"]
    assert info["extra_generation_params"]["Order"].split() == expected


def test_postprocess_adds_pictures(client):
    images, info = generate(client, prompt="an apple", **alwayson("Watermark", True, "more"))
    assert [image.size for image in images] == [(128, 128), (64, 64)]
    assert info["infotexts"][1] == "one more" == images[1].info["parameters"]


def test_saved_pictures(client, log):
    (picture,), info = generate(client, prompt="an apple", save_images=True, **alwayson("Watermark", True, "signed"))
    assert info["warnings"] == [] and "Signed" not in picture.info["parameters"]
    path = next(line for line in log().splitlines() if line.startswith("saved ")).split()[1]
    assert Image.open(path).info["parameters"].endswith("Signed: yes")


def test_routes_of_extensions(client):
    about = client.get("/hello-api/about").json()
    assert about["samplers"] == len(client.get("/sdapi/v1/samplers").json())
    assert about["model"] in about["models"] and about["idle"] is True
    image = Image.new("RGB", (4, 2), "red")
    image.putpixel((0, 0), (0, 0, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    answer = client.post("/hello-api/flip", json={"image": base64.b64encode(buffer.getvalue()).decode()})
    flipped = Image.open(io.BytesIO(base64.b64decode(answer.json()["image"])))
    assert flipped.getpixel((3, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("process", "ValueError: trouble in process"),
        ("postprocess_image", "trouble in postprocess_image"),
        ("model", "shared.sd_model.model.diffusion_model is not offered"),
    ],
)
def test_an_error_costs_the_request_nothing_but_that_hook(client, where, said):
    (plain,), info = generate(client, prompt="an apple")
    assert info["warnings"] == []
    (picture,), info = generate(client, prompt="an apple", **alwayson("Troublemaker", where))
    assert picture.tobytes() == plain.tobytes()
    assert len(info["warnings"]) == 1 and said in info["warnings"][0] and "Troublemaker" in info["warnings"][0]


def test_what_is_no_json_and_a_prompt_changed_in_place(client):
    (picture,), info = generate(client, prompt="an apple", **alwayson("Troublemaker", "json"))
    assert info["extra_generation_params"] == {"Object": None, "Not a number": None, "Script": None}
    assert info["prompt"] == "an apple" and "TypeError" in info["warnings"][0]
    (star,), _ = generate(client, prompt="a star")
    assert picture.tobytes() == star.tobytes()


def test_selectable_script(client):
    images, info = generate(client, prompt="an apple", script_name="twice", script_args=[3, "b"])
    assert len(images) == 3 and info["all_seeds"] == [5, 6, 7]
    assert [text.split("Time: ")[1].split(",")[0] for text in info["infotexts"]] == ["b0", "b1", "b2"]
    (plain,), _ = generate(client, prompt="an apple", seed=7)
    assert plain.tobytes() == images[2].tobytes()
    named, _ = generate(client, prompt="an apple", script_name="Twice", script_args={"Times": 1})
    assert len(named) == 1


@pytest.mark.parametrize("sampler", ["Euler a", "Heun"])
def test_guidance_of_an_extension(client, sampler):
    """A sampler that the script made, and a method replaced on the class: each for its own request."""
    body = {"prompt": "an apple", "sampler_name": sampler}
    (half,), _ = generate(client, **body, cfg_scale=3.5)
    (picture,), info = generate(client, **body, cfg_scale=7, **alwayson("Mimic", "sampler"))
    assert close(picture, half) and info["warnings"] == [] and f"Sampler: {sampler}," in info["infotexts"][0]
    evaluations = 8 if sampler == "Heun" else 4
    assert info["extra_generation_params"]["Mimic steps"].endswith(f" of {evaluations}")
    for how in ("class", "object"):
        (picture,), info = generate(client, **body, cfg_scale=1.75, **alwayson("Mimic", how))
        assert close(picture, half) and info["warnings"] == []


def test_guidance_that_fails_or_is_never_called(client):
    (plain,), _ = generate(client, prompt="an apple")
    for how, said in (
        ("broken", "combine_denoised: TypeError"),
        ("forward", "CFGDenoiserKDiffusion.forward"),
        ("sample", "p.sample"),
    ):
        (picture,), info = generate(client, prompt="an apple", **alwayson("Mimic", how))
        assert picture.tobytes() == plain.tobytes()
        assert len(info["warnings"]) == 1 and said in info["warnings"][0]


def text_chunk(infotext: str) -> PngInfo:
    chunk = PngInfo()
    chunk.add_text("parameters", infotext)
    return chunk


def test_a_callback_after_every_step(client):
    """What is set on the class while a request runs is that request's."""
    (plain,), _ = generate(client, prompt="an apple", sampler_name="Euler")
    (picture,), info = generate(client, prompt="an apple", sampler_name="Euler", **alwayson("Trail", 0.1, 0))
    assert info["extra_generation_params"]["Trail"] == 4 and info["warnings"] == []
    assert not close(picture, plain)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=text_chunk(picture.info["parameters"]))
    read = client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(buffer.getvalue()).decode()}).json()
    assert read["parameters"]["Trail"] == {"steps": 4} and read["parameters"]["Seed"] == "5"
    (stopped,), info = generate(client, prompt="an apple", sampler_name="Euler", **alwayson("Trail", 1, 0))
    assert not close(stopped, plain) and info["warnings"] == []
    (again,), info = generate(client, prompt="an apple", sampler_name="Euler")
    assert again.tobytes() == plain.tobytes() and "Trail" not in info["extra_generation_params"]


def test_a_callback_registered_once_is_there_in_the_next_request(client):
    (plain,), _ = generate(client, prompt="an apple")
    (first,), info = generate(client, prompt="an apple", **alwayson("Trail", 0, 0.5))
    (second,), _ = generate(client, prompt="an apple", **alwayson("Trail", 0, 0.5))
    assert info["warnings"] == [] and first.tobytes() == second.tobytes() != plain.tobytes()
    (last,), _ = generate(client, prompt="an apple")
    assert last.tobytes() == plain.tobytes()
    assert client.get("/sdapi/v1/options").json()["trail_negative"] == 1.5


def test_the_folder_and_format_are_known_before_saving(client, log):
    generate(client, prompt="an apple", save_images=True, **alwayson("Trail", 0.1, 0))
    line = next(line for line in log().splitlines() if line.startswith("will save "))
    assert "txt2img-images" in line


def test_choices_by_their_number(client):
    (plain,), _ = generate(client, prompt="an apple")
    for args, size in (([], 128), (["Nearest"], 256), ([2], 256)):
        (picture,), info = generate(client, prompt="an apple", script_name="Enlarge", script_args=args)
        assert picture.size == (size, size) and info["extra_generation_params"]["Enlarged with"] == (
            "Nearest" if args else "None"
        )
    assert picture.resize((128, 128), Image.Resampling.NEAREST).tobytes() == plain.tobytes()


def test_a_guidance_scale_that_changes(client):
    (low,), _ = generate(client, prompt="an apple", cfg_scale=1)
    (plain,), _ = generate(client, prompt="an apple")
    (picture,), _ = generate(client, prompt="an apple", script_name="Enlarge", script_args=["None", "scheduled"])
    assert not close(picture, plain) and not close(picture, low)


def test_a_script_that_fails_says_which(client):
    answer = client.post(T2I, json={**SMALL, "script_name": "Enlarge", "script_args": ["None", "wrong"]})
    assert answer.status_code == 500 and "script 'Enlarge' failed: IndexError: no such tile" in answer.json()["detail"]


def test_what_is_not_offered_is_said_when_it_is_loaded(log):
    assert "ldm.modules.attention is not offered by this server" in log()
    assert "registers on_script_unloaded, which this server does not call" in log()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"script_name": "nothing"}, "Script 'nothing' not found"),
        ({"script_name": "Watermark"}, "Script 'Watermark' not found"),
        ({"alwayson_scripts": {"Nothing": {"args": []}}}, "Script 'Nothing' not found"),
        (
            {"alwayson_scripts": {"Twice": {"args": []}}},
            "Cannot have a selectable script in the always on scripts params",
        ),
    ],
)
def test_wrong_names(client, body, said):
    answer = client.post(T2I, json={**SMALL, **body})
    assert answer.status_code == 422 and said in answer.json()["detail"]


def test_two_requests_see_only_their_own(client):
    """Different options, prompts and trouble side by side; each as it is alone."""
    bodies = [
        {"prompt": "an apple", **alwayson("Watermark", True, "options"),
         "override_settings": {"randn_source": "CPU", "CLIP_stop_at_last_layers": 2}},
        {"prompt": "a star", "n_iter": 2, **alwayson("Watermark", True, "options")},
        {"prompt": "an apple", **alwayson("Troublemaker", "process")},
    ]  # fmt: skip
    alone = [generate(client, **body) for body in bodies]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda body: generate(client, **body), bodies * 2))
    for (images, info), (expected, known) in zip(together, alone * 2, strict=True):
        assert info["infotexts"] == known["infotexts"] and info["warnings"] == known["warnings"]
        for image, other in zip(images, expected, strict=True):
            assert close(image, other)
    assert [info["extra_generation_params"].get("Seen") for _, info in alone] == ["2 1", "1 2", None]


def test_img2img_has_scripts_of_its_own(client):
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), "green").save(buffer, "PNG")
    start = base64.b64encode(buffer.getvalue()).decode()
    (picture,), info = generate(
        client, "/sdapi/v1/img2img", init_images=[start], prompt="a __colour__ apple",
        alwayson_scripts={"Simple wildcards": {"args": [True, "by number", 0]}, "Watermark": {"args": [True]}},
    )  # fmt: skip
    assert info["prompt"] == "a red apple" and picture.getpixel((5, 5)) == (255, 0, 255)
    assert info["warnings"] == []
