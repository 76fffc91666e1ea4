"""Whole trainings on the golden checkpoint: a few dozen steps on a handful of drawn images."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sdwebui_api.api.generation_schema import Txt2ImgBody
from sdwebui_api.api.services import Services
from sdwebui_api.api.training_schema import (
    CreateEmbeddingBody,
    CreateHypernetworkBody,
    TrainEmbeddingBody,
    TrainHypernetworkBody,
)
from sdwebui_api.app import build
from sdwebui_api.config.options import Options
from sdwebui_api.engine.embedding_files import read_embedding
from sdwebui_api.engine.networks.selection import AppliedHypernetwork, NetworkSet
from sdwebui_api.errors import BadRequest, Busy, Cancelled, NotFound, NotStored
from sdwebui_api.generation.training import Trainer
from sdwebui_api.generation.training_request import TrainingRequest
from sdwebui_api.jobs.job import Job, PreviewSettings
from tests.support.fakes import GOLDEN, golden_flags


def draw_images(folder: Path, count: int = 5) -> Path:
    """Purple blocks with a dark dot on green ground: nothing the golden checkpoint has seen."""
    folder.mkdir(parents=True)
    dice = random.Random(0)
    for index in range(count):
        image = Image.new("RGB", (128, 128), (30, 200, 60))
        draw, x = ImageDraw.Draw(image), dice.randint(20, 50)
        draw.rectangle((x, x, x + 50, x + 40), fill=(230, 30, 200))
        draw.ellipse((x + 10, x + 5, x + 35, x + 30), fill=(20, 20, 90))
        image.save(folder / f"{index}-a block.png")
    return folder


@dataclass(frozen=True)
class School:
    services: Services
    root: Path

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def files(self) -> Any:
        assert self.services.trainer is not None
        return self.services.trainer.files

    def create_embedding(self, **fields: Any) -> Path:
        body = CreateEmbeddingBody(**{"num_vectors_per_token": 2, "overwrite_old": True} | fields)
        checkpoint = self.services.current_checkpoint()
        new = self.files.new_embedding(body.model_dump())
        return self.services.trainer.create_embedding(new, checkpoint, None, Job("c", "create-embedding"))

    def create_hypernetwork(self, **fields: Any) -> Path:
        body = CreateHypernetworkBody(**{"enable_sizes": ["128", 192], "overwrite_old": True} | fields)
        new = self.files.new_hypernetwork(body.model_dump())
        path = self.services.trainer.create_hypernetwork(new, Job("c", "create-hypernetwork"))
        self.services.catalog.hypernetworks.refresh()
        return path

    def request(self, kind: str, name: str, **fields: Any) -> TrainingRequest:
        schema = TrainEmbeddingBody if kind == "embedding" else TrainHypernetworkBody
        given = {
            f"{kind}_name": name, "learn_rate": "0.01", "data_root": "blocks", "steps": 30, "training_width": 64,
            "training_height": 64, "template_filename": "subject.txt",
        }  # fmt: skip
        body = schema(**given | fields).model_dump()
        options = Options()
        checkpoint = self.services.current_checkpoint()
        request = self.files.training(kind, body, options, checkpoint, None, None)
        return replace(request, loop=replace(request.loop, seed=1))

    def train(self, request: TrainingRequest, job: Job | None = None) -> Any:
        assert self.services.trainer is not None
        return self.services.trainer.train(request, job or Job("t", f"train-{request.kind}"))

    def picture(self, prompt: str) -> np.ndarray:
        body = Txt2ImgBody(
            prompt=prompt, seed=5, subseed=6, steps=4, width=64, height=64, sampler_name="Euler"
        )  # fmt: skip
        request = self.services.resolver("txt2img", body.model_dump(), body.model_fields_set, Options())
        result = self.services.generator.run(request, Job("p", "txt2img"))
        return np.asarray(result.images[0].image, dtype=np.int16)

    def records(self) -> list[str]:
        return sorted(path.name for path in (self.data_dir / "log").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    root = tmp_path_factory.mktemp("school")
    draw_images(root / "data" / "blocks")
    flags = golden_flags(
        root / "data", "--models-dir", str(GOLDEN / "models"), "--embeddings-dir", str(root / "embeddings"),
        "--hypernetwork-dir", str(root / "hypernetworks"), "--ckpt", "tiny-sd.safetensors",
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield School(build(flags), root)
    torch.set_num_threads(threads)


class StopsAfter(Job):
    """Interrupted or cancelled after a step."""

    def __init__(self, step: int, how: str) -> None:
        super().__init__("stops", "train-embedding")
        self._at, self._how = step, how

    def step(self, step: int, preview: Any = None) -> None:
        super().step(step, preview)
        if step == self._at:
            self.interrupt() if self._how == "interrupt" else self._cancel()


def error_on_images(school: School, prompt: str, hypernetwork: str = "", seed: int = 9) -> float:
    """How badly the model predicts the noise in the training images, always the same noise."""
    from sdwebui_api.engine.training.captions import FileNameWords, PromptWriter
    from sdwebui_api.engine.training.dataset import Dataset, ImageRules, image_files, read_examples
    from sdwebui_api.engine.training.objective import Objective
    from sdwebui_api.prompting.encoding import TextSettings
    from sdwebui_api.prompting.learnable import LearnablePrompts

    folder = school.data_dir / "blocks"
    school.services.catalog.hypernetworks.refresh()
    found = school.services.catalog.hypernetworks.find(hypernetwork)
    networks = NetworkSet(hypernetworks=(AppliedHypernetwork(found),) if found else ())
    with school.services.trainer._engine.lease(school.services.current_checkpoint(), networks=networks) as model:
        rules = ImageRules(64, 64, latent_sampling="deterministic")
        examples = read_examples(model, image_files(folder, folder), rules, FileNameWords(), 0, lambda done: None)
        batches = Dataset(examples, PromptWriter((prompt,), "")).batches(5, seed)
        objective = Objective(model, model.unet, seed)
        texts = LearnablePrompts(model.text_encoder, model.embeddings, TextSettings())
        losses = []
        for _ in range(12):
            batch = next(batches)
            context = texts.encode(batch.prompts)
            with model.unet.holding():
                losses.append(objective.loss(batch, context).item())
        return sum(losses) / len(losses)


# -- embeddings ------------------------------------------------------------------------------------------------------


def test_created_embedding_starts_as_its_text(school: School) -> None:
    path = school.create_embedding(name="gizmo/../start!", init_text="red apple", num_vectors_per_token=4)
    assert path == school.root / "embeddings" / "gizmo..start.pt"
    made = read_embedding(path, "start")
    assert made.tensor.shape == (4, 128) and made.step == 0 and made.checkpoint is None
    assert torch.equal(made.tensor[0], made.tensor[1]) and not torch.equal(made.tensor[1], made.tensor[2])
    zeros = read_embedding(school.create_embedding(name="zeros", init_text=" "), "zeros")
    assert not zeros.tensor.any()


def test_existing_embedding_is_kept_unless_told(school: School) -> None:
    school.create_embedding(name="kept")
    with pytest.raises(BadRequest, match="exists already") as caught:
        school.create_embedding(name="kept", overwrite_old=False)
    assert caught.value.field == "name"


def test_training_an_embedding_lowers_the_error_and_changes_pictures(school: School) -> None:
    path = school.create_embedding(name="learned")
    before, picture = error_on_images(school, "a picture of learned"), school.picture("a picture of learned")
    started = time.perf_counter()
    job = Job("t", "train-embedding")
    outcome = school.train(school.request("embedding", "learned", learn_rate="0.02:20, 0.01", steps=40), job)
    seconds = time.perf_counter() - started
    after = error_on_images(school, "a picture of learned")
    print(f"embedding: error {before:.4f} -> {after:.4f} in 40 steps, {seconds:.1f} s")
    assert (outcome.path, outcome.step) == (path, 40)
    assert after < 0.97 * before
    assert job.snapshot().sampling_step == job.snapshot().sampling_steps == 40
    trained = read_embedding(path, "learned")
    assert trained.step == 40 and trained.checkpoint_name == "tiny-sd" and len(trained.checkpoint) == 10
    assert np.abs(school.picture("a picture of learned") - picture).max() > 5


def test_training_goes_on_where_it_ended(school: School) -> None:
    path = school.create_embedding(name="twice")
    school.train(school.request("embedding", "twice", steps=2))
    first = read_embedding(path, "twice")
    school.train(school.request("embedding", "twice", steps=2))
    assert torch.equal(read_embedding(path, "twice").tensor, first.tensor)
    school.train(school.request("embedding", "twice", steps=4))
    assert read_embedding(path, "twice").step == 4


def test_training_ends_with_its_schedule(school: School) -> None:
    school.create_embedding(name="short")
    assert school.train(school.request("embedding", "short", learn_rate="0.01:3", steps=50)).step == 3


def test_all_the_knobs(school: School) -> None:
    school.create_embedding(name="knobs")
    request = school.request(
        "embedding", "knobs", steps=3, batch_size=2, gradient_step=2, latent_sampling_method="random", varsize=True,
        use_weight=True, clip_grad_mode="norm", clip_grad_value="0.5:2, 0.1", shuffle_tags=True, tag_drop_out=0.3,
        template_filename="subject_filewords.txt", save_embedding_every=2, log_directory="knobs",
    )  # fmt: skip
    request = replace(request, records=replace(request.records, csv_every=1))
    school.train(request)
    folder = next((school.data_dir / "log" / "knobs").glob("*/knobs"))
    assert len((folder / "textual_inversion_loss.csv").read_text().splitlines()) == 4
    assert read_embedding(folder / "embeddings" / "knobs-2.pt", "knobs").step == 2
    assert "learn_rate: 0.01" in next(folder.glob("settings-*.txt")).read_text()


@pytest.mark.parametrize("kind", ["embedding", "hypernetwork"])
def test_previews_show_what_is_being_taught(school: School, kind: str) -> None:
    name = f"shown-{kind}"
    school.create_embedding(name=name) if kind == "embedding" else school.create_hypernetwork(name=name)
    body = Txt2ImgBody(prompt="x", seed=5, steps=3, width=64, height=64, sampler_name="Euler")
    preview = school.services.resolver("txt2img", body.model_dump(), body.model_fields_set, Options())
    request = school.request(
        kind, name, steps=4, create_image_every=2, learn_rate="0.05", log_directory=name, latent_sampling_method="once"
    )
    assert request.preview is None and request.preview_follows_prompts
    job = Job("shown", f"train-{kind}", preview=PreviewSettings(every_n_steps=1))
    school.train(replace(request, preview=preview), job)
    first, second = sorted((school.data_dir / "log" / name).rglob("images/*.png"))
    pictures = [np.asarray(Image.open(path), dtype=np.int16) for path in (first, second)]
    assert np.abs(pictures[0] - pictures[1]).max() > 2
    assert name in Image.open(first).info["parameters"] or kind == "hypernetwork"
    assert job.draw_preview(lambda image, form: b"drawn") is not None
    if kind == "embedding":
        assert read_embedding(first, "other").name == name and read_embedding(first, "other").step == 2


def test_a_preview_that_fails_does_no_harm(school: School) -> None:
    school.create_embedding(name="unseen")
    body = Txt2ImgBody(prompt="x", steps=3, width=64, height=64)
    preview = school.services.resolver("txt2img", body.model_dump(), body.model_fields_set, Options())
    request = school.request("embedding", "unseen", steps=2, create_image_every=1)
    broken = replace(preview, prompt="a [b:c", sampler="no such sampler")
    assert school.train(replace(request, preview=broken)).step == 2


def test_interrupt_saves_what_was_learned(school: School) -> None:
    path = school.create_embedding(name="interrupted")
    assert school.train(school.request("embedding", "interrupted"), StopsAfter(3, "interrupt")).step == 3
    assert read_embedding(path, "interrupted").step == 3


def test_interrupt_before_the_first_step_changes_nothing(school: School) -> None:
    path = school.create_embedding(name="early")
    before, job = path.read_bytes(), Job("early", "train-embedding")
    job.interrupt()
    assert school.train(school.request("embedding", "early"), job).step == 0
    assert path.read_bytes() == before


def test_a_server_that_stops_saves_what_was_learned(school: School) -> None:
    path = school.create_embedding(name="evening")
    taught = threading.Event()
    trainer = Trainer(school.services.trainer._engine, school.files, lambda lender: None, taught.is_set)

    class Evening(Job):
        def step(self, step: int, preview: Any = None) -> None:
            super().step(step, preview)
            if step == 2:
                taught.set()

    assert trainer.train(school.request("embedding", "evening"), Evening("e", "train-embedding")).step == 2
    assert read_embedding(path, "evening").step == 2


def test_cancel_leaves_nothing(school: School) -> None:
    path = school.create_embedding(name="cancelled")
    before, records = path.read_bytes(), school.records()
    with pytest.raises(Cancelled):
        request = school.request("embedding", "cancelled", save_embedding_every=1)
        school.train(request, StopsAfter(3, "cancel"))
    assert path.read_bytes() == before and school.records() == records
    assert not list(school.root.rglob(".saving-*"))


def test_one_training_at_a_time_and_generation_beside_it(school: School) -> None:
    school.create_embedding(name="slow")
    alone = school.picture("a red apple")
    job = Job("slow", "train-embedding")
    thread = threading.Thread(target=school.train, args=(school.request("embedding", "slow", steps=10_000), job))
    thread.start()
    while job.snapshot().sampling_step == 0:
        time.sleep(0.01)
    try:
        with pytest.raises(Busy):
            school.train(school.request("embedding", "slow"))
        assert np.array_equal(school.picture("a red apple"), alone)
        assert thread.is_alive()
    finally:
        job.interrupt()
        thread.join(30)
    assert not thread.is_alive()


def test_weights_loaded_without_autograd_can_be_trained_on(school: School) -> None:
    school.services.engine.unload()
    school.picture("a red apple")
    school.create_embedding(name="later")
    assert school.train(school.request("embedding", "later", steps=1)).step == 1


# -- hypernetworks ---------------------------------------------------------------------------------------------------


def test_training_a_hypernetwork_lowers_the_error_and_changes_pictures(school: School) -> None:
    path = school.create_hypernetwork(name="blocky", activation_func="relu")
    before, picture = error_on_images(school, "a block", "blocky"), school.picture("a block <hypernet:blocky:1>")
    started = time.perf_counter()
    request = school.request(
        "hypernetwork", "blocky", learn_rate="2e-3:20, 1e-3", steps=40, template_filename="hypernetwork.txt"
    )
    assert school.train(request).step == 40
    seconds = time.perf_counter() - started
    after = error_on_images(school, "a block", "blocky")
    print(f"hypernetwork: error {before:.4f} -> {after:.4f} in 40 steps, {seconds:.1f} s")
    assert after < 0.97 * before
    stated = torch.load(path, weights_only=True)
    assert stated["step"] == 40 and stated["sd_checkpoint_name"] == "tiny-sd"
    assert np.abs(school.picture("a block <hypernet:blocky:1>") - picture).max() > 5


def test_hypernetwork_files_are_like_those_of_a1111(school: School) -> None:
    recorded = torch.load(GOLDEN / "models" / "hypernetworks" / "tiny-hyper.pt", weights_only=True)
    path = school.create_hypernetwork(name="form", enable_sizes=["128"], activation_func="relu")
    made = torch.load(path, weights_only=True)
    assert made.keys() == recorded.keys()
    for ours, theirs in zip(made[128], recorded[128], strict=True):
        assert {name: value.shape for name, value in ours.items()} == {k: v.shape for k, v in theirs.items()}
    same = ("layer_structure", "activation_func", "is_layer_norm", "activate_output", "dropout_structure")
    assert [made[name] for name in same] == [recorded[name] for name in same]


def test_deep_hypernetworks_survive_training(school: School) -> None:
    path = school.create_hypernetwork(
        name="deep", layer_structure=[1, 1.5, 2, 1], activation_func="LeakyReLU", weight_init="KaimingNormal",
        add_layer_norm=True, use_dropout=True, dropout_structure="0, 0.1, 0.2, 0",
    )  # fmt: skip
    names = set(torch.load(path, weights_only=True)[128][0])
    assert school.train(school.request("hypernetwork", "deep", learn_rate="1e-4", steps=2)).step == 2
    trained = torch.load(path, weights_only=True)
    assert set(trained[128][0]) == names and trained["dropout_structure"] == [0, 0.1, 0.2, 0]
    assert school.train(school.request("hypernetwork", "deep", learn_rate="1e-4", steps=3)).step == 3
    assert np.isfinite(school.picture("a block <hypernet:deep:0.5>")).all()


def test_other_pictures_stay_as_they_are(school: School) -> None:
    before = school.picture("a red apple")
    school.create_hypernetwork(name="aside")
    school.train(school.request("hypernetwork", "aside", steps=2))
    assert np.array_equal(school.picture("a red apple"), before)


def test_hypernetwork_of_other_widths_is_refused(school: School) -> None:
    school.create_hypernetwork(name="wide", enable_sizes=[768])
    with pytest.raises(BadRequest, match=r"\[128, 192\]") as caught:
        school.train(school.request("hypernetwork", "wide"))
    assert caught.value.field == "hypernetwork_name"


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "../"}, "name"),
        ({"name": "None"}, "name"),
        ({"name": "n" * 200}, "name"),
        ({"layer_structure": "1, 2"}, "layer_structure"),
        ({"layer_structure": "1, x, 1"}, "layer_structure"),
        ({"layer_structure": [1, 1e9, 1]}, "layer_structure"),
        ({"enable_sizes": [8192], "layer_structure": [1, 16, 16, 1]}, "layer_structure"),
        ({"weight_init": "Zero"}, "weight_init"),
        ({"activation_func": "multiheadattention"}, "activation_func"),
        ({"activation_func": "glu"}, "activation_func"),
        ({"activation_func": "nonsense"}, "activation_func"),
        ({"use_dropout": True, "dropout_structure": "0, 0.1"}, "dropout_structure"),
        ({"use_dropout": True, "dropout_structure": "0, 1, 0"}, "dropout_structure"),
    ],
)
def test_refused_hypernetworks(school: School, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        school.create_hypernetwork(**{"name": "refused"} | fields)
    assert caught.value.field == field
    assert not (school.root / "hypernetworks" / "refused.pt").exists()


def test_a_full_disk_is_told_with_the_folder(school: School, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(NotStored, match=r"homeless\.pt could not be saved in .*hypernetworks: the disk is full"):
        school.create_hypernetwork(name="homeless")
    assert not [path for path in (school.root / "hypernetworks").iterdir() if "homeless" in path.name]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"learn_rate": "fast"}, "learn_rate"),
        ({"clip_grad_mode": "value", "clip_grad_value": "much"}, "clip_grad_value"),
        ({"data_root": "missing"}, "data_root"),
        ({"data_root": ""}, "data_root"),
        ({"data_root": "."}, "data_root"),
        ({"data_root": "a" * 300}, "data_root"),
        ({"data_root": "a\0b"}, "data_root"),
        ({"log_directory": "ä" * 120}, "log_directory"),
        ({"log_directory": "a\0b"}, "log_directory"),
        ({"data_root": "/etc"}, "data_root"),
        ({"data_root": "blocks/../.."}, "data_root"),
        ({"data_root": "out"}, "data_root"),
        ({"log_directory": "/etc"}, "log_directory"),
        ({"log_directory": "../../x"}, "log_directory"),
        ({"template_filename": "../subject.txt"}, "template_filename"),
        ({"template_filename": "none.txt"}, "template_filename"),
        ({"embedding_name": "unknown"}, "embedding_name"),
        ({"embedding_name": "../embeddings/known"}, "embedding_name"),
    ],
)
def test_refused_trainings(school: School, fields: dict[str, Any], field: str) -> None:
    school.create_embedding(name="known")
    link = school.data_dir / "out"
    if not link.is_symlink():
        link.symlink_to(draw_images(school.root / "elsewhere"))
    with pytest.raises((BadRequest, NotFound)) as caught:
        school.request("embedding", "known", **fields)
    assert caught.value.field == field


def test_broken_images_are_left_out(school: School) -> None:
    folder = draw_images(school.data_dir / "broken", 1)
    (folder / "broken.png").write_bytes(b"no image")
    school.create_embedding(name="some")
    assert school.train(school.request("embedding", "some", data_root="broken", steps=1)).step == 1
    next(folder.glob("0-*")).unlink()
    with pytest.raises(BadRequest, match="None of the images"):
        school.train(school.request("embedding", "some", data_root="broken", steps=2))
