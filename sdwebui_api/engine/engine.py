"""The engine: everything that runs networks, behind one object."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from sdwebui_api.engine import allocator, memory
from sdwebui_api.engine.batch_size import FixedBatchSize, LearnedBatchSize
from sdwebui_api.engine.batcher import StepBatcher
from sdwebui_api.engine.devices import Device, DevicePlan, as_out_of_memory
from sdwebui_api.engine.embeddings import EmbeddingDatabase, EmbeddingStore
from sdwebui_api.engine.families.base import TextTower
from sdwebui_api.engine.filling import Weights
from sdwebui_api.engine.libraries import import_without_scipy
from sdwebui_api.engine.load_settings import DEFAULTS, LoadSettings
from sdwebui_api.engine.mapped import read_ahead
from sdwebui_api.engine.model import DiffusionModel
from sdwebui_api.engine.networks.control import ControlNetwork
from sdwebui_api.engine.networks.control_files import load_control_network, made_for, needs_base
from sdwebui_api.engine.networks.selection import NO_NETWORKS, NetworkSet
from sdwebui_api.engine.networks.variants import Variants
from sdwebui_api.engine.source import KnownContents, LentText, LoadedText, LoadedUNet, Progress, Source, identity
from sdwebui_api.engine.stopwatch import Stopwatch
from sdwebui_api.engine.text_encoder import TextEncoder, Tokenizer
from sdwebui_api.engine.tiny_vae import TinyVae, TinyVaeFiles
from sdwebui_api.engine.vae import Vae
from sdwebui_api.engine.weights import Abandoned, Load, Loaded, Resident, WeightsCache
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.config.flags import Flags
    from sdwebui_api.config.paths import Paths

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST_GROUP = {"cpu": 8, "cuda": 32}
"""Evaluations per forward pass with `--max-step-batch auto`. With the embedded model on two AMX cores eight take 2.7
times as long as one."""


class Engine:
    """Loads checkpoints on demand and lends them to jobs. Thread-safe."""

    def __init__(self, flags: Flags, paths: Paths) -> None:
        self.plan = DevicePlan.from_flags(flags)
        self.device = Device(self.plan)
        self.batcher = StepBatcher(
            _batch_size(flags, self.plan), memory.cells_limit(self.plan), Stopwatch(self.plan.device), self._make_room
        )
        self._hashing = not flags.no_hashing
        self._versions = count(1)
        self._embeddings = EmbeddingStore([paths.embeddings_dir], hashing=self._hashing, versions=self._versions)
        room, resting = memory.weights_room(self.plan, flags), memory.resting_room(self.plan, flags)
        self._weights = WeightsCache(room, on_evict=self._forget_dropped, ram=resting)
        self.device.make_room = self._make_room
        self._variants = Variants(self.device)
        self.tokenizer = Tokenizer()
        self._contents = KnownContents()
        self._encoder_folders = (paths.models_dir / "annotators" / "clip_vision",)
        """Image encoders of IP-Adapters."""
        self._tiny_vaes = TinyVaeFiles(paths.taesd_dir)
        self._needs_base: dict[str, bool] = {}
        """By control model: whether it is stored as a change of the UNet."""
        self._last_used: CheckpointFile | None = None
        """Unless it was unloaded."""
        self._ready = False

    def with_embeddings(self, folders: Sequence[Path]) -> Engine:
        """This engine, its weights and its batches, for somebody who has other embeddings."""
        other = copy.copy(self)
        other._embeddings = EmbeddingStore(folders, hashing=self._hashing, versions=self._versions)
        return other

    def _forget_dropped(self) -> None:
        """Really give back the memory of parts that were dropped.

        What a finished job leaves behind may hold them in circles (it knows its scripts, they know it), which Python
        collects when it pleases: without this eight checkpoints were found in memory that should have been gone.
        """
        gc.collect()
        self.device.forget()
        allocator.give_back()

    def _make_room(self) -> bool:
        """A GPU's memory that idle weights keep is for whoever runs out of it; whether there was any. On a CPU nothing
        runs out in time to be helped."""
        return self.plan.device.type == "cuda" and self._weights.make_room()

    @property
    def ready(self) -> bool:
        """A checkpoint has been loaded successfully, so generation requests can be served."""
        return self._ready

    @contextmanager
    def lease(
        self,
        checkpoint: CheckpointFile,
        vae: VaeFile | None = None,
        on_progress: Progress | None = None,
        networks: NetworkSet = NO_NETWORKS,
        settings: LoadSettings = DEFAULTS,
    ) -> Iterator[DiffusionModel]:
        """`checkpoint` with `vae` (None: the one inside it) and `networks`, loaded as `settings` say if need be
        and kept while the context lasts.

        Raises UnusableModel when a file is broken, gone, incomplete or of an unknown family; OutOfMemory; BadRequest
        when what `settings` want to decode with is not there.
        """
        source = self._source(checkpoint, vae, on_progress, settings)
        with ExitStack() as held:
            network = held.enter_context(self._unet(source))
            text = self._text(source, networks, network.facts.family.towers, held)
            if networks:
                network = held.enter_context(self._unet_with(networks, network, source))
            autoencoder = held.enter_context(self._vae(source))
            tiny = self._tiny_vaes.lend(settings, network.facts.family, self.auxiliary, held)
            settings.limit(self._weights)
            model = self._model(network, text, autoencoder, tiny, networks, settings)
            self._last_used, self._ready = checkpoint, True
            del source  # lets go of the mapped file, unless the text encoder is still to come
            yield model

    def _source(
        self,
        checkpoint: CheckpointFile,
        vae: VaeFile | None = None,
        on_progress: Progress | None = None,
        settings: LoadSettings = DEFAULTS,
    ) -> Source:
        progress = on_progress or (lambda text: None)
        return Source(checkpoint, vae, self.plan, self.device, progress, settings, self._contents)

    def _unet(self, source: Source) -> AbstractContextManager[LoadedUNet]:
        return self._part(source.unet_key, source.load_unet, LoadedUNet, source=source)

    def _vae(self, source: Source) -> AbstractContextManager[Vae]:
        return self._part(source.vae_key, source.load_vae, Vae, source=source)

    def _base_text(self, source: Source, *, keep: bool = True) -> AbstractContextManager[LoadedText]:
        return self._part(source.text_key, source.load_text_encoder, LoadedText, keep=keep, source=source)

    @contextmanager
    def _passing_text(self, source: Source) -> Iterator[LoadedText]:
        """Comes into the memory that earlier pictures left free, and goes with it."""
        allocator.give_back()
        with ExitStack() as held:
            yield held.enter_context(self._base_text(source, keep=False))  # no name here may outlive it

    def _text(self, source: Source, networks: NetworkSet, towers: Sequence[TextTower], held: ExitStack) -> LentText:
        """Held from now on; where memory is to be spared, and no network changes it, only while texts are encoded."""
        key = self._variants.text_key(source.text_key, networks)
        if source.text_passes and key == source.text_key:
            passing = LentText(key, source.text_width, partial(self._passing_text, source))
            held.callback(passing.let_go)
            return passing
        text = held.enter_context(self._base_text(source))
        if key != source.text_key:
            text = held.enter_context(self._text_with(key, networks, text, source, towers))
        return LentText(key, source.text_width, lambda: nullcontext(text), text.problems)

    def prefetch(
        self, checkpoint: CheckpointFile, vae: VaeFile | None, settings: LoadSettings, gone: Callable[[], bool]
    ) -> None:
        """Load what a lease will want if memory is free for it, so that nothing has to leave for it; else have the
        system read the files into memory that it can take back. Stops when `gone()`. Raises as `lease`.
        """

        def go_on(text: str) -> None:
            if gone():
                raise Abandoned(text)

        source = self._source(checkpoint, vae, go_on, settings)
        if all([self._weights.has(key) for key in source.keys]):
            return
        if settings.checkpoints is None and source.size() <= self._weights.spare():
            with suppress(Abandoned), ExitStack() as held:
                held.enter_context(self._unet(source))
                if not source.text_passes:
                    held.enter_context(self._base_text(source))
                held.enter_context(self._vae(source))
        else:
            read_ahead(source.files(), gone)

    @contextmanager
    def auxiliary(
        self,
        path: Path,
        load: Callable[[Path, DevicePlan, Device], T],
        kind: type[T],
        on_progress: Progress | None = None,
        *,
        keep: bool = True,
    ) -> Iterator[T]:
        """What `load` makes of a file or folder (an upscaler, a captioner), kept while the context lasts.

        `keep` False: its memory is given back then. Raises as `lease`.
        """

        def load_part(reserve: Callable[[int], None]) -> Loaded:
            if on_progress is not None:
                on_progress(f"loading {path.name}")
            files = path.rglob("*") if path.is_dir() else (path,)
            size = sum(file.stat().st_size for file in files if file.is_file())
            reserve(size)
            return Loaded(load(path, self.plan, self.device), size)

        with self._part(f"{kind.__name__}:{identity(path)}", load_part, kind, keep=keep) as part:
            yield part

    @contextmanager
    def control_network(
        self, path: Path, model: DiffusionModel, on_progress: Progress | None = None, *, keep: bool = True
    ) -> Iterator[ControlNetwork]:
        """The control model in `path` for `model`'s UNet, kept while the context lasts.

        `keep` False: its memory is given back then. Raises as `lease`.
        """
        unet, dtype = model.unet.module, self.plan.unet_dtype
        file = identity(path)
        if file not in self._needs_base:
            self._needs_base[file] = needs_base(path)
        base = f":{model.unet.key}" if self._needs_base[file] else ""
        key = f"control:{file}:{dtype}:{made_for(unet)}{base}"

        def load(reserve: Callable[[int], None]) -> Loaded:
            if on_progress is not None:
                on_progress(f"loading the control model {path.name}")
            weights = Weights(dtype, self.plan.storage, self.plan.channels_last)
            return Loaded(*load_control_network(path, unet, weights, self.device, key, reserve, self._encoder_folders))

        with self._part(key, load, object, keep=keep) as network:
            yield cast(ControlNetwork, network)

    @contextmanager
    def _unet_with(self, networks: NetworkSet, base: LoadedUNet, source: Source) -> Iterator[LoadedUNet]:
        key = self._variants.unet_key(source.unet_key, networks)

        def load(reserve: Callable[[int], None]) -> Loaded:
            source.say("merging networks into the UNet")
            made = self._variants.make_unet(base.unet, key, networks, reserve)
            return Loaded(LoadedUNet(made.part, base.facts, made.problems), made.size)

        if key == source.unet_key:
            yield base
        else:
            with self._part(key, load, LoadedUNet, base=source.unet_key) as variant:
                yield variant

    def _text_with(
        self, key: str, networks: NetworkSet, base: LoadedText, source: Source, towers: Sequence[TextTower]
    ) -> AbstractContextManager[LoadedText]:
        def load(reserve: Callable[[int], None]) -> Loaded:
            source.say("merging networks into the text encoder")
            made = self._variants.make_text_encoder(base.module, towers, networks, reserve)
            return Loaded(LoadedText(made.part, made.problems), made.size)

        return self._part(key, load, LoadedText, base=source.text_key)

    @contextmanager
    def _part(
        self,
        key: str,
        load: Load,
        kind: type[T],
        base: str | None = None,
        *,
        keep: bool = True,
        source: Source | None = None,
    ) -> Iterator[T]:
        def load_part(reserve: Callable[[int], None]) -> Loaded:
            return self._load_where_it_fits(load, reserve)

        def enter() -> T:
            in_ram = source is not None and source.rests_in_ram
            return held.enter_context(self._weights.lease(key, load_part, kind, base=base, keep=keep, in_ram=in_ram))

        with ExitStack() as held:
            yield self._woken(enter)

    def _woken(self, enter: Callable[[], T]) -> T:
        """A part that rests in RAM may find the GPU full: the second attempt has what idle parts leave."""
        try:
            return enter()
        except Exception as error:
            out_of_memory = as_out_of_memory(error)
            if out_of_memory is None or out_of_memory is error:  # a load has had its second attempt
                raise
        if not self._make_room():
            raise out_of_memory
        return enter()

    def _load_where_it_fits(self, load: Load, reserve: Callable[[int], None]) -> Loaded:
        """A second attempt, after dropping everything idle, when memory runs out. Raises OutOfMemory.

        The weights serve training too, so they must not become inference tensors in a job that runs without autograd.
        """
        import_without_scipy()
        with torch.inference_mode(False), torch.no_grad():
            try:
                loaded = load(reserve)
            except Exception as error:
                if as_out_of_memory(error) is None:
                    raise
                loaded = None
            if loaded is None:
                self._weights.unload_all()
                try:
                    loaded = load(reserve)
                except Exception as error:
                    raise as_out_of_memory(error) or error from None
        allocator.give_back()  # what was there while weights were converted lies between those that stay
        return loaded

    def _model(
        self,
        network: LoadedUNet,
        text: LentText,
        autoencoder: Vae,
        tiny: TinyVae,
        networks: NetworkSet,
        settings: LoadSettings,
    ) -> DiffusionModel:
        self._embeddings.refresh()
        database = self._embeddings.database(self.tokenizer.tokenize, text.width)
        database = database.with_more(self._variants.embeddings(networks), self.tokenizer.tokenize)
        # Texts may contain embeddings, so encodings depend on their files too.
        key = f"{text.key}#{database.version}{self._variants.embeddings_key(networks)}"
        towers = network.facts.family.towers
        return DiffusionModel(
            unet=network.unet,
            text_encoder=TextEncoder(key, text, self.tokenizer, self.device, towers),
            vae=autoencoder,
            tiny_vae=tiny,
            facts=network.facts,
            embeddings=database,
            batcher=self.batcher,
            device=self.plan.device,
            dtype=self.plan.unet_dtype,
            problems=(*network.problems, *text.problems),
            settings=settings,
            holder=self.device,
        )

    def warm(self, checkpoint: CheckpointFile, vae: VaeFile | None = None, on_progress: Progress | None = None) -> None:
        """Load `checkpoint` so that the first request need not wait. Raises as `lease`."""
        with self.lease(checkpoint, vae, on_progress):
            log.info("%s is loaded (%s, %s)", checkpoint.name, self.plan.device, self.plan.unet_dtype)

    def unload(self) -> None:
        """Drop all weights that no job is using; they are loaded again when needed."""
        self._weights.unload_all()
        self._last_used = None

    def loaded(self) -> list[Resident]:
        """The parts in memory, last used last."""
        return self._weights.loaded()

    @property
    def cache_use(self) -> tuple[int, int]:
        """(hits, misses) of the weights in memory."""
        return self._weights.hits, self._weights.misses

    def memory(self) -> dict[str, Any]:
        """RAM and GPU memory in bytes, in the shape of A1111's GET /memory."""
        return memory.report(self.plan.device)

    def embeddings(self, checkpoint: CheckpointFile | None = None) -> EmbeddingDatabase:
        """The embeddings on disk, sorted into `loaded` and `skipped` by the width of the checkpoint's text encoder.

        `checkpoint` None: the one used last. Without any all are `skipped`, as nothing can use them. Loads nothing
        into memory but the embeddings.
        """
        self._embeddings.refresh()
        checkpoint = checkpoint or self._last_used
        width = self._text_width(checkpoint) if checkpoint is not None else 0
        return self._embeddings.database(self.tokenizer.tokenize, width)

    def _text_width(self, checkpoint: CheckpointFile) -> int:
        """0 for a checkpoint that cannot be read."""
        try:
            return self._source(checkpoint).text_width
        except UnusableModel as error:
            log.warning("no embeddings can be offered: %s", error)
            return 0


def _batch_size(flags: Flags, plan: DevicePlan) -> FixedBatchSize:
    if flags.max_step_batch is not None:
        return FixedBatchSize(flags.max_step_batch)
    return LearnedBatchSize(LARGEST_GROUP.get(plan.device.type, LARGEST_GROUP["cpu"]))
