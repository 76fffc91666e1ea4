"""POST /beautifulprompt/v1/expand and GET /beautifulprompt/v1/models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from beautiful_prompt.expand import Expansion, checked, expand
from beautiful_prompt.library import Library
from beautiful_prompt.sampling import LARGEST_SEED, LONGEST_RESULT, MOST_RESULTS, Sampling
from sdwebui_api.api.errors import to_json
from sdwebui_api.api.generation import result_unless_gone
from sdwebui_api.api.services import Services, job_header, job_id_of, services_of, user_of
from sdwebui_api.api.wire import Float, Int, Name, Prompt, WireModel
from sdwebui_api.jobs.job import Job

router = APIRouter(prefix="/beautifulprompt/v1", tags=["BeautifulPrompt"])


class ExpandBody(WireModel):
    """`temperature` and `repetition_penalty`: null for what the model's authors recommend."""

    never_null: ClassVar[frozenset[str]] = frozenset({"prompt"})

    prompt: Prompt
    model: Name = ""
    count: Annotated[Int, Field(ge=1, le=MOST_RESULTS)] = 4
    seed: Annotated[Int, Field(ge=-1, le=LARGEST_SEED)] = -1
    max_new_tokens: Annotated[Int, Field(ge=1, le=LONGEST_RESULT)] = 100
    temperature: Annotated[Float | None, Field(ge=0, le=5)] = None
    top_k: Annotated[Int, Field(ge=0, le=1000)] = 50
    top_p: Annotated[Float, Field(gt=0, le=1)] = 0.95
    repetition_penalty: Annotated[Float | None, Field(ge=0.1, le=5)] = None
    force_task_id: Name | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            self.count, self.seed, self.max_new_tokens, self.temperature, self.top_k, self.top_p,
            self.repetition_penalty,
        ).drawn()  # fmt: skip


@router.get("/models")
async def models(request: Request) -> list[dict[str, Any]]:
    """What expands prompts, the default first."""
    services = services_of(request)
    return await services.off_loop(Library(services.catalog.models_dirs).rows)


@router.post("/expand")
async def expand_prompt(body: ExpandBody, request: Request) -> Response:
    """A few words, expanded. Answers `{"prompts", "model", "seeds", "prompt", "job_id"}`; stops as jobs do."""
    services = services_of(request)
    job = await start(services, body, user_of(request), job_id_of(request, body.force_task_id))
    request.state.job_id = job.id
    found: Expansion = await result_unless_gone(services, job, request)
    answer = {
        "prompts": found.prompts,
        "model": found.model,
        "seeds": found.seeds,
        "prompt": body.prompt,
        "job_id": job.id,
    }
    return Response(to_json(answer), media_type="application/json", headers=job_header(job))


async def start(services: Services, body: ExpandBody, user: str | None, id: str | None = None) -> Job:
    """The job whose result is an `Expansion`. Raises BadRequest, Busy and Unavailable."""
    text, sampling = checked(body.prompt), body.sampling
    model = await services.off_loop(Library(services.catalog.models_dirs).find, body.model)

    def work(job: Job) -> Expansion:
        job.set_total(1)
        job.start_batch("BeautifulPrompt", sampling.max_new_tokens)

        def on_tokens(count: int) -> bool:
            job.step(count)
            return job.should_stop

        return expand(text, model, sampling, services.lend_network, job, on_tokens)

    return services.runner.submit(work, kind="beautifulprompt", id=id, user=user, summary=text[:200])
