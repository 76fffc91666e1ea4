"""All catalogs of one server, or of one user of `--cluster`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdwebui_api.catalog.checkpoints import CheckpointCatalog
from sdwebui_api.catalog.controlnets import ControlModelCatalog
from sdwebui_api.catalog.face_restorers import FaceRestorerCatalog
from sdwebui_api.catalog.hashes import HashCache
from sdwebui_api.catalog.networks import HypernetworkCatalog, LoraCatalog
from sdwebui_api.catalog.styles import StyleCatalog
from sdwebui_api.catalog.upscalers import UpscalerCatalog
from sdwebui_api.catalog.vaes import VaeCatalog
from sdwebui_api.config.flags import Flags, UserFlags
from sdwebui_api.config.paths import Paths


@dataclass(frozen=True)
class Catalog:
    """The model files of this server."""

    checkpoints: CheckpointCatalog
    vaes: VaeCatalog
    styles: StyleCatalog
    upscalers: UpscalerCatalog
    loras: LoraCatalog
    hypernetworks: HypernetworkCatalog
    control_models: ControlModelCatalog
    models_dirs: tuple[Path, ...] = ()
    hashes: HashCache | None = None
    """None with `--no-hashing`."""

    def refresh(self) -> None:
        self.checkpoints.refresh()
        self.vaes.refresh()
        self.styles.refresh()
        self.upscalers.refresh()
        self.loras.refresh()
        self.hypernetworks.refresh()
        self.control_models.refresh()


def build_catalog(flags: Flags, paths: Paths, hashes: HashCache | None = None) -> Catalog:
    """What lies in the model folders now. `hashes`: None: those of the server's own file."""
    if hashes is None and not flags.no_hashing:
        hashes = HashCache(paths.cache_dir / "hashes.json")
    # Of two LoRAs with one name the later folder's counts, and a user's own ones come before public ones.
    loras = paths.lora_dirs[::-1] if isinstance(flags, UserFlags) else paths.lora_dirs
    catalog = Catalog(
        CheckpointCatalog(paths.checkpoint_dirs, hashes, fallback=paths.shipped_checkpoint_dir, initial=flags.ckpt),
        VaeCatalog(
            paths.vae_dirs,
            paths.checkpoint_dirs,
            hashes,
            forced=Path(flags.vae_path).expanduser().absolute() if flags.vae_path else None,
        ),
        StyleCatalog(paths.styles_files),
        UpscalerCatalog(paths.upscaler_dirs),
        LoraCatalog(loras, hashes),
        HypernetworkCatalog(paths.hypernetwork_dir),
        ControlModelCatalog((*paths.controlnet_dirs, *_extension_models(flags))),
        models_dirs=_models_dirs(flags, paths),
        hashes=hashes,
    )
    catalog.refresh()
    return catalog


def face_restorers(flags: Flags, paths: Paths) -> FaceRestorerCatalog:
    folders = {"GFPGAN": paths.gfpgan_dirs, "CodeFormer": (paths.codeformer_dir,)}
    return FaceRestorerCatalog(folders, paths.face_detection_dir, flags.gfpgan_model)


def _models_dirs(flags: Flags, paths: Paths) -> tuple[Path, ...]:
    """A user's own folder before the public one."""
    public = (Paths.from_flags(flags.server).models_dir,) if isinstance(flags, UserFlags) else ()
    return paths.models_dir, *public


def _extension_models(flags: Flags) -> list[Path]:
    """Where extensions (the ControlNet extension, say) keep models of their own."""
    server = flags.server if isinstance(flags, UserFlags) else flags
    return sorted(Paths.from_flags(server).data_dir.glob("extensions/*/models"))
