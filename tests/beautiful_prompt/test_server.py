"""BeautifulPrompt through a real server: the endpoint, the always-on script, progress and stopping."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.beautiful_prompt.models import make_attack, make_bloom, make_gpt2
from tests.support.server import RunningServer, run_golden_server

BLOOM = "pai-bloom-1b1-text2prompt-sd-v2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("beautiful-prompt")
    home = data / "models" / "BeautifulPrompt"
    make_bloom(home / BLOOM)
    make_gpt2(home / "short", positions=64)
    make_attack(home / "wicked", data / "done")
    with run_golden_server(data, "--api-log") as running:
        yield running


def expand(server: RunningServer, **fields: Any) -> requests.Response:
    return requests.post(f"{server.url}/beautifulprompt/v1/expand", json={"prompt": "a red apple"} | fields, timeout=60)


def draw(server: RunningServer, args: Any, **fields: Any) -> requests.Response:
    body = {"prompt": "a red apple", "seed": 5, "steps": 1, "width": 64, "height": 64, "sampler_name": "Euler"}
    body |= {"alwayson_scripts": {"BeautifulPrompt": {"args": args}}}
    return requests.post(f"{server.url}/sdapi/v1/txt2img", json=body | fields, timeout=120)


def infotexts(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    found: list[str] = json.loads(answer.json()["info"])["infotexts"]
    return found


class TestModels:
    def test_the_listing(self, server: RunningServer) -> None:
        rows = requests.get(f"{server.url}/beautifulprompt/v1/models", timeout=60).json()
        assert [row["name"] for row in rows] == [BLOOM, "short", "wicked", "phrase-grammar", "emoji-grammar"]
        assert (rows[0]["architecture"], rows[0]["template"]) == ("bloom", BLOOM)
        assert rows[3]["kind"] == "phrase grammar"

    def test_new_ones_appear_by_themselves(self, server: RunningServer) -> None:
        assert expand(server, model="newcomer").status_code == 422
        folder = make_bloom(server.data_dir / "models" / "BeautifulPrompt" / "newcomer")
        assert expand(server, model="newcomer", max_new_tokens=4).status_code == 200
        for file in folder.iterdir():
            file.unlink()


class TestExpand:
    def test_a_language_model(self, server: RunningServer) -> None:
        answer = expand(server, model=BLOOM, seed=3, count=3, max_new_tokens=20).json()
        assert len(set(answer["prompts"])) == 3
        assert (answer["model"], answer["seeds"], answer["prompt"]) == (BLOOM, [3, 4, 5], "a red apple")
        again = expand(server, model=BLOOM, seed=4, count=1, max_new_tokens=20).json()
        assert again["prompts"] == answer["prompts"][1:2]

    def test_a_grammar(self, server: RunningServer) -> None:
        answer = expand(server, model="phrase-grammar", seed=1).json()
        assert len(answer["prompts"]) == 4
        assert all(prompt.startswith("a red apple") for prompt in answer["prompts"])
        assert expand(server, model="phrase-grammar", seed=1).json()["prompts"] == answer["prompts"]

    def test_without_a_seed_it_is_drawn_and_told(self, server: RunningServer) -> None:
        first, second = (expand(server, model="emoji-grammar").json() for _ in range(2))
        assert first["seeds"] != second["seeds"]
        again = expand(server, model="emoji-grammar", seed=first["seeds"][0]).json()
        assert again["prompts"] == first["prompts"]

    def test_the_default_is_the_first_that_is_listed(self, server: RunningServer) -> None:
        assert expand(server, max_new_tokens=2).json()["model"] == BLOOM

    def test_networks_are_kept_out_and_put_back(self, server: RunningServer) -> None:
        for model in (BLOOM, "phrase-grammar"):
            prompt = "a red apple <lora:emoji-blueprint:te=0.5:unet=1>"
            for found in expand(server, model=model, prompt=prompt, max_new_tokens=8).json()["prompts"]:
                assert found.endswith(" <lora:emoji-blueprint:te=0.5:unet=1>")

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"prompt": ""}, "prompt"),
            ({"prompt": "  \n"}, "prompt"),
            ({"prompt": None}, "prompt"),
            ({"prompt": ["x"]}, "prompt"),
            ({"model": "gpt-9"}, "model"),
            ({"model": "../BeautifulPrompt/short"}, "model"),
            ({"count": 0}, "count"),
            ({"count": 11}, "count"),
            ({"seed": -2}, "seed"),
            ({"seed": 2**32}, "seed"),
            ({"max_new_tokens": 10_000}, "max_new_tokens"),
            ({"temperature": -1}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"top_k": -1}, "top_k"),
            ({"repetition_penalty": 0}, "repetition_penalty"),
            ({"model": "short", "prompt": "apple " * 100}, "prompt"),
        ],
    )
    def test_wrong_values_are_named(self, server: RunningServer, fields: dict[str, Any], field: str) -> None:
        answer = expand(server, **fields)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", field]

    def test_an_unknown_model_is_answered_with_the_known(self, server: RunningServer) -> None:
        assert "phrase-grammar" in expand(server, model="phrase").json()["errors"]

    def test_it_can_be_queued(self, server: RunningServer) -> None:
        body = {"prompt": "a red apple", "model": "phrase-grammar", "seed": 1}
        queue = f"{server.url}/api/predict/sd_async"
        put = requests.post(f"{queue}/beautifulprompt/v1/expand", json=body, timeout=60)
        wanted = {"requestId": put.headers["X-Eas-Queueservice-Request-Id"], "_timeout_": "50s", "_raw_": "true"}
        found = requests.get(f"{queue}/sink", params=wanted, timeout=60)
        assert found.json()["prompts"] == expand(server, **body).json()["prompts"]

    def test_too_long_a_text(self, server: RunningServer) -> None:
        assert expand(server, prompt="a" * 2001).status_code == 413

    @pytest.mark.parametrize(
        "extreme", [{"temperature": 0}, {"temperature": 5, "top_k": 0, "top_p": 1}, {"top_k": 1000}]
    )
    def test_extremes_work(self, server: RunningServer, extreme: dict[str, Any]) -> None:
        assert expand(server, model=BLOOM, max_new_tokens=6, **extreme).status_code == 200

    def test_odd_texts_work(self, server: RunningServer) -> None:
        for prompt in ("一只猫", "🍎" * 5, "{prompt} {raw_prompt} %s", "</s><s>", "#", "(((", "<lora:x:1>", "a\x00b"):
            for model in (BLOOM, "phrase-grammar", "short"):
                answer = expand(server, model=model, prompt=prompt, max_new_tokens=4, count=2)
                assert answer.status_code == 200, (prompt, model, answer.text)

    def test_a_wicked_model_is_refused(self, server: RunningServer) -> None:
        answer = expand(server, model="wicked")
        assert answer.status_code == 422
        assert "wicked" in answer.json()["errors"]
        assert not (server.data_dir / "done").exists()


class TestJobs:
    def test_it_is_a_job_with_progress_that_can_be_cancelled(self, server: RunningServer) -> None:
        answers: list[requests.Response] = []
        fields = {"model": BLOOM, "count": 10, "max_new_tokens": 512, "force_task_id": "slow", "temperature": 0.01}
        thread = threading.Thread(target=lambda: answers.append(expand(server, **fields)))
        thread.start()
        job = _wait_for(server, "slow", lambda row: row["state"] == "running" and row["progress"] > 0.02)
        assert job["kind"] == "beautifulprompt"
        requests.delete(f"{server.url}/sdapi/v1/jobs/slow", timeout=60)
        thread.join(120)
        assert answers[0].status_code == 499

    def test_interrupted_it_answers_with_what_there_is(self, server: RunningServer) -> None:
        answers: list[requests.Response] = []
        fields = {"model": BLOOM, "count": 10, "max_new_tokens": 512, "force_task_id": "long", "temperature": 0.01}
        thread = threading.Thread(target=lambda: answers.append(expand(server, **fields)))
        thread.start()
        _wait_for(server, "long", lambda row: row["state"] == "running" and row["progress"] > 0.02)
        requests.post(f"{server.url}/sdapi/v1/interrupt", timeout=60)
        thread.join(120)
        assert answers[0].status_code == 200
        assert len(answers[0].json()["prompts"]) == 10


def _wait_for(server: RunningServer, id: str, condition: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        answer = requests.get(f"{server.url}/sdapi/v1/jobs/{id}", timeout=60)
        if answer.status_code == 200 and condition(answer.json()):
            found: dict[str, Any] = answer.json()
            return found
        time.sleep(0.01)
    raise AssertionError(f"the job {id} did not get there")


class TestAlwaysOn:
    def test_requests_that_do_not_ask_are_as_ever(self, server: RunningServer) -> None:
        for args in (None, [], [False], {"enabled": False, "model": "nothing"}):
            (text,) = infotexts(draw(server, args))
            assert text.startswith("a red apple\n")
            assert "BeautifulPrompt" not in text

    @pytest.mark.parametrize(
        "args", [{"model": "phrase-grammar"}, [True, "phrase-grammar"], [{"Model": "phrase-grammar"}]]
    )
    def test_the_prompt_is_expanded_by_the_seed_and_it_is_written_down(self, server: RunningServer, args: Any) -> None:
        prompt = expand(server, model="phrase-grammar", seed=5, count=1).json()["prompts"][0]
        answer = draw(server, args)
        (text,) = infotexts(answer)
        assert text.startswith(f"{prompt}\n")
        assert "BeautifulPrompt model: phrase-grammar, BeautifulPrompt from: a red apple" in text
        assert json.loads(answer.json()["info"])["prompt"] == prompt

    def test_a_language_model_and_a_seed_of_its_own(self, server: RunningServer) -> None:
        (text,) = infotexts(draw(server, {"model": BLOOM, "seed": 77, "max_new_tokens": 10}))
        prompt = expand(server, model=BLOOM, seed=77, count=1, max_new_tokens=10).json()["prompts"][0]
        assert text.startswith(prompt)
        assert "BeautifulPrompt seed: 77" in text

    def test_each_picture_its_own(self, server: RunningServer) -> None:
        args = {"model": "phrase-grammar", "each_picture": True}
        texts = infotexts(draw(server, args, batch_size=2, n_iter=6, prompt="a cat # a comment", styles=[]))[-12:]
        prompts = [text.partition("\n")[0] for text in texts]
        assert len(set(prompts)) > 8
        assert prompts[1:3] == expand(server, model="phrase-grammar", prompt="a cat", seed=6, count=2).json()["prompts"]

    def test_img2img(self, server: RunningServer) -> None:
        picture = draw(server, None).json()["images"][0]
        body = {"prompt": "a cat", "init_images": [picture], "steps": 1, "width": 64, "height": 64, "seed": 1}
        body |= {"alwayson_scripts": {"BeautifulPrompt": {"args": {"model": "emoji-grammar"}}}}
        answer = requests.post(f"{server.url}/sdapi/v1/img2img", json=body, timeout=120)
        assert "BeautifulPrompt from: a cat" in infotexts(answer)[0]

    def test_an_empty_prompt_stays_empty_and_is_told(self, server: RunningServer) -> None:
        answer = draw(server, {"model": "phrase-grammar"}, prompt="")
        assert any("BeautifulPrompt" in line for line in json.loads(answer.json()["info"])["warnings"])

    @pytest.mark.parametrize(
        "args",
        [
            {"model": "nothing"},
            {"top_p": 7},
            {"seed": 1.5},
            {"max_new_tokens": "many"},
            {"temperature": "x"},
            {"colour": 1},
            "yes",
        ],
    )
    def test_wrong_arguments_are_refused(self, server: RunningServer, args: Any) -> None:
        answer = draw(server, args)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][:3] == ["body", "alwayson_scripts", "BeautifulPrompt"]

    def test_scripts_list_it(self, server: RunningServer) -> None:
        listed = requests.get(f"{server.url}/sdapi/v1/scripts", timeout=60).json()
        assert "beautifulprompt" in listed["txt2img"]
        assert "beautifulprompt" in listed["img2img"]


def test_the_log_has_no_errors(server: RunningServer) -> None:
    log = Path(server.data_dir, "server.log").read_text(encoding="utf-8")
    assert "Traceback" not in log
