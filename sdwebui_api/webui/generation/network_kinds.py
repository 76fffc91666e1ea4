"""Which models have cards, of each kind: `lora`, `textual_inversion`, `hypernetworks`, `checkpoints`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from sdwebui_api.api.network_pictures import network_folders
from sdwebui_api.api.services import Services
from sdwebui_api.catalog.embeddings import list_embeddings
from sdwebui_api.errors import BadRequest, NotFound
from sdwebui_api.webui.generation.network_cards import Network
from sdwebui_api.webui.localization import t


def refresh_kind(services: Services, kind: str) -> None:
    parts: Mapping[str, Callable[[], None]] = {
        "lora": services.catalog.loras.refresh,
        "textual_inversion": services.engine.refresh_embeddings,
        "hypernetworks": services.catalog.hypernetworks.refresh,
        "checkpoints": services.catalog.checkpoints.refresh,
    }
    parts[kind]()


def networks_of(services: Services, kind: str) -> list[Network]:
    if kind == "lora":
        return _loras(services)
    if kind == "textual_inversion":
        return _embeddings(services)
    if kind == "hypernetworks":
        files = services.catalog.hypernetworks.all()
        return [Network(file.name, file.name, file.path, "hypernet") for file in files]
    checkpoints = services.catalog.checkpoints.all()
    return [
        Network(file.stem, file.known_title, file.path, words=(file.known_sha256 or "")[:10]) for file in checkpoints
    ]


def _loras(services: Services) -> list[Network]:
    loras, preferred = services.catalog.loras, services.options.snapshot().lora_preferred_name
    return [
        Network(
            file.name, loras.preferred_name(file, preferred), file.path, "lora", f"{file.alias} {file.known_shorthash}"
        )
        for file in loras.all()
    ]  # fmt: skip


def _embeddings(services: Services) -> list[Network]:
    """Those that fit the checkpoint."""
    paths = {file.name: file.path for file in list_embeddings(network_folders(services)["textual_inversion"])}
    loaded = services.engine.embeddings(services.current_checkpoint())["loaded"]
    return [Network(name, name, paths.get(name)) for name in loaded]


def path_of(services: Services, asked: str) -> Path:
    """The model that `asked` means, JSON of `{"kind", "file"}` as its card has them. Raises BadRequest and NotFound."""
    try:
        wanted = json.loads(asked)
        kind, file = str(wanted["kind"]), str(wanted["file"])
    except (ValueError, KeyError, TypeError):
        raise BadRequest(t("There is no such model")) from None
    folders = network_folders(services).get(kind)
    for network in networks_of(services, kind) if folders else ():
        path = network.path
        roots = [root for root in folders or () if path is not None and path.is_relative_to(root)]
        if path is not None and roots and path.relative_to(roots[0]).with_suffix("").as_posix() == file:
            return path
    raise NotFound(t("There is no such model"))
