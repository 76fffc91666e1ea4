"""Requests generated from our own OpenAPI document, right ones and wrong ones: none may end in a 500.

2,000 of them, the pictures being drawn by a fake generator. What is answered with 200 has to fit the document too.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from sdwebui_api.api.factory import create_app
from sdwebui_api.generation.request import GenerationRequest, GenerationResult
from sdwebui_api.jobs.job import Job
from tests.support.fakes import FakeGenerator, fake_services

EXAMPLES = 2000
SECONDS = 1500
HEAVY = {"/sdapi/v1/txt2img": 4, "/sdapi/v1/img2img": 4, "/sdapi/v1/options": 3}
"""Routes with many fields get more of the examples."""
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGNsaGhgwAaYsIoOWgkAMBcBkGHHl6YAAAAASUVORK5CYII="
"""8 x 8 grey pixels, PNG."""


class OnePicture(FakeGenerator):
    """However many are asked for: 128,000 pictures are a fair request and a long test."""

    def run(self, request: GenerationRequest, job: Job) -> GenerationResult:
        return GenerationResult([self._picture(request)], {"prompt": request.prompt, "infotexts": ["fake"]})


@pytest.fixture
def services(tmp_path: Path):
    """Nothing is written outside of `tmp_path`, whatever the requests create."""
    folders = [f"--{kind}={tmp_path / kind}" for kind in ("embeddings-dir", "hypernetwork-dir", "ckpt-dir", "vae-dir")]
    services = fake_services(tmp_path, *folders, concurrency=2)
    services.generator = OnePicture()
    yield services
    services.runner.drain(5)


def operations(services) -> list[tuple[APIOperation, int]]:
    """Every operation with its number of examples; one that takes no input has only one request."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(services))
    found = [result.ok() for result in schema.get_all_operations()]
    weights = [HEAVY.get(operation.path, 1) if _takes_input(operation) else 0 for operation in found]
    counts = [-(-EXAMPLES * weight // sum(weights)) or 1 for weight in weights]
    return list(zip(found, counts, strict=True))


def _takes_input(operation: APIOperation) -> bool:
    return bool(operation.body or operation.query or operation.path_parameters)


def with_real_images(body: object) -> object:
    """Random text is no picture; what comes after decoding would never be reached."""
    if not isinstance(body, dict):
        return body
    real = {"image": PICTURE, "mask": PICTURE, "init_images": [PICTURE], "imageList": [{"data": PICTURE, "name": "x"}]}
    return body | {name: real[name] for name in real if body.get(name) or name == "init_images"}


def requests(operation: APIOperation) -> st.SearchStrategy[Case]:
    right = operation.as_strategy()
    return st.one_of(right, operation.as_strategy(GenerationMode.NEGATIVE)) if _takes_input(operation) else right


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_no_generated_request_ends_in_a_500(services):
    end = time.monotonic() + SECONDS
    statuses: Counter[int] = Counter()

    def send(case: Case, real_images: bool) -> None:
        if time.monotonic() > end:
            return
        if real_images:
            case.body = with_real_images(case.body)
        response = case.call()
        statuses[response.status_code] += 1
        checks = [not_a_server_error, response_schema_conformance]
        case.validate_response(response, checks=checks if response.status_code == 200 else checks[:1])

    for operation, count in operations(services):
        check = given(case=requests(operation), real_images=st.booleans())(send)
        check = seed(20)(check)
        settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(check)()  # fmt: skip
    assert statuses.total() >= EXAMPLES, f"only {statuses.total()} requests in {SECONDS} s"
    assert statuses[200] > EXAMPLES / 10, statuses
