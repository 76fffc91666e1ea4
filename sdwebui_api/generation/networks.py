"""Which networks a prompt asks for: its tags and two options, looked up among this server's files.

Follows A1111's `extra_networks_lora.py` and `extra_networks_hypernet.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sdwebui_api.engine.load_settings import DEFAULTS, LoadSettings
from sdwebui_api.engine.networks.selection import AppliedHypernetwork, AppliedLora, NetworkSet
from sdwebui_api.errors import nearest
from sdwebui_api.generation.plan import GenerationPlan
from sdwebui_api.prompting.extra_networks import ExtraNetwork, parse_extra_networks

if TYPE_CHECKING:
    from pathlib import Path

    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.config.options import Options
    from sdwebui_api.engine.engine import Engine, Progress
    from sdwebui_api.engine.model import DiffusionModel
    from sdwebui_api.engine.networks.control import ControlNetwork

T = TypeVar("T", float, None)

LORA_KINDS = ("lora", "lyco")
HYPERNETWORK_KIND = "hypernet"


class NetworkFiles(Protocol):
    """The part of the catalog that tags name."""

    @property
    def loras(self) -> LoraCatalog: ...

    @property
    def hypernetworks(self) -> HypernetworkCatalog: ...


@dataclass(frozen=True)
class ChosenNetworks:
    networks: NetworkSet
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Name as mentioned -> short hash, for the infotext."""
    warnings: Sequence[str] = ()


class BadTag(Exception):
    """A tag that cannot be understood; the picture is made without it, as in A1111."""


def choose_networks(tags: Sequence[ExtraNetwork], options: Options, files: NetworkFiles) -> ChosenNetworks:
    """What `tags` mean. Unknown names and broken tags become warnings; tags of unknown kinds mean nothing."""
    loras: list[AppliedLora] = []
    hypernetworks: list[AppliedHypernetwork] = []
    warnings: list[str] = []
    files.loras.look_for(_name(tag) for tag in tags if tag.kind in LORA_KINDS)
    files.hypernetworks.look_for(_name(tag) for tag in tags if tag.kind == HYPERNETWORK_KIND)
    for tag in tags:
        try:
            if tag.kind in LORA_KINDS:
                loras.append(_lora(tag, files.loras))
            elif tag.kind == HYPERNETWORK_KIND:
                hypernetworks.append(_hypernetwork(tag, files.hypernetworks))
        except BadTag as problem:
            warnings.append(str(problem))
    hashes = {}
    if options.lora_add_hashes_to_infotext:
        stated = ((lora.mentioned_as.replace(":", "").replace(",", ""), lora.file.shorthash) for lora in loras)
        hashes = {name: shorthash for name, shorthash in stated if name and shorthash}
    return ChosenNetworks(NetworkSet(tuple(loras), tuple(hypernetworks)), hashes, warnings)


def _name(tag: ExtraNetwork) -> str:
    return tag.positional[0] if tag.positional else ""


def _lora(tag: ExtraNetwork, loras: LoraCatalog) -> AppliedLora:
    """`<lora:name:te:unet:dyn>`, each also by name; the UNet's weight is the text encoder's unless given."""
    name = _name(tag)
    file = loras.find(name)
    if file is None:
        raise BadTag(f"Lora not found: {_short(name)}{_suggestions(name, loras.names())}")
    te = _number(tag, 1, "te", 1.0)
    unet = _number(tag, 2, "unet", te)
    dyn = _number(tag, 3, "dyn", None)
    return AppliedLora(file, te, unet, None if dyn is None else max(int(dyn), 0), name)


def _hypernetwork(tag: ExtraNetwork, hypernetworks: HypernetworkCatalog) -> AppliedHypernetwork:
    name = _name(tag)
    file = hypernetworks.find(name)
    if file is None:
        names = [found.name for found in hypernetworks.all()]
        raise BadTag(f"Hypernetwork not found: {_short(name)}{_suggestions(name, names)}")
    return AppliedHypernetwork(file, _number(tag, 1, "", 1.0))


def _number(tag: ExtraNetwork, position: int, name: str, default: T) -> float | T:
    text = tag.named.get(name)
    if text is None and position < len(tag.positional):
        text = tag.positional[position]
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadTag(f"<{tag.kind}:{_short(':'.join(tag.items))}> is ignored: {_short(text)!r} is no number")
    return value


def _suggestions(name: str, names: Sequence[str]) -> str:
    close = nearest(name, names)
    return f" (there are {', '.join(close)})" if close else ""


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


def with_names_of_this_server(params: Mapping[str, Any], options: Options, files: NetworkFiles) -> dict[str, Any]:
    """A read infotext whose prompt calls LoRAs what they are called here, told by their hashes.

    A1111 `lora_script.infotext_pasted`.
    """
    stated = (entry.partition(":") for entry in str(params.get("Lora hashes") or "").split(","))
    hashes = {name.strip(): shorthash.strip() for name, _, shorthash in stated}

    def renamed(tag: re.Match[str]) -> str:
        shorthash = hashes.get(tag[1], "")
        if shorthash and (mentioned := files.loras.find(tag[1])) is not None:
            _ = mentioned.shorthash  # known from now on
        file = files.loras.with_hash(shorthash)
        return f"<lora:{files.loras.preferred_name(file, options.lora_preferred_name)}:" if file else tag[0]

    prompt = params.get("Prompt")
    return {**params, "Prompt": re.sub(r"<lora:([^:<>]+):", renamed, prompt)} if prompt else dict(params)


def with_networks_of_options(plan: GenerationPlan, options: Options, files: NetworkFiles) -> GenerationPlan:
    """The options `sd_lora` and `sd_hypernetwork` put their tag behind every prompt, where infotexts show it."""
    files.loras.look_for([options.sd_lora] if options.sd_lora != "None" else [])
    files.hypernetworks.look_for([options.sd_hypernetwork] if options.sd_hypernetwork != "None" else [])
    for kind, name, known in (
        ("lora", options.sd_lora, files.loras.find(options.sd_lora)),
        (HYPERNETWORK_KIND, options.sd_hypernetwork, files.hypernetworks.find(options.sd_hypernetwork)),
    ):
        if known:
            tag = f"<{kind}:{name}:{options.extra_networks_default_multiplier}>"
            plan = replace(
                plan,
                prompts=tuple(_with_tag(prompt, kind, name, tag) for prompt in plan.prompts),
                hires_prompts=tuple(_with_tag(prompt, kind, name, tag) for prompt in plan.hires_prompts),
            )
    return plan


def _with_tag(prompt: str, kind: str, name: str, tag: str) -> str:
    kinds = LORA_KINDS if kind in LORA_KINDS else (kind,)
    mentioned = any(found.kind in kinds and found.items[0] == name for found in parse_extra_networks(prompt)[1])
    return prompt if mentioned else prompt + tag


class ModelLeases:
    """The models one run holds, each leased once; those of networks that are no longer used are given back."""

    def __init__(
        self, engine: Engine, network_files: NetworkFiles, on_progress: Progress, settings: LoadSettings = DEFAULTS
    ) -> None:
        self.network_files = network_files
        self._settings = settings
        self._engine = engine
        self._on_progress = on_progress
        self._control = ExitStack()
        self._held: dict[tuple[CheckpointFile, VaeFile | None, NetworkSet], tuple[DiffusionModel, ExitStack]] = {}

    def __enter__(self) -> ModelLeases:
        return self

    def __exit__(self, *exc: object) -> None:
        self._control.close()
        self._give_back(list(self._held))

    def get(self, checkpoint: CheckpointFile, vae: VaeFile | None, networks: NetworkSet) -> DiffusionModel:
        """Raises as `Engine.lease`."""
        key = checkpoint, vae, networks
        if key not in self._held:
            stack = ExitStack()
            model = stack.enter_context(
                self._engine.lease(checkpoint, vae, self._on_progress, networks, self._settings)
            )
            self._held[key] = model, stack
        return self._held[key][0]

    def control_network(self, path: Path, model: DiffusionModel, *, keep: bool = True) -> ControlNetwork:
        """Held until the end. Raises as `Engine.control_network`."""
        return self._control.enter_context(self._engine.control_network(path, model, self._on_progress, keep=keep))

    def keep_only(self, networks: NetworkSet) -> None:
        """Give back the variants of other networks; plain checkpoints stay."""
        self._give_back([key for key in self._held if key[2] and key[2] != networks])

    def _give_back(self, keys: Sequence[tuple[CheckpointFile, VaeFile | None, NetworkSet]]) -> None:
        with ExitStack() as stacks:
            for key in keys:
                stacks.push(self._held.pop(key)[1])
