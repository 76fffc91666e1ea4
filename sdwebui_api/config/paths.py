"""Where everything lies on disk, worked out once from the flags."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

from sdwebui_api.config.flags import Flags, UserFlags, default_data_dir

CHECKPOINT_FOLDER = "Stable-diffusion"


@dataclass(frozen=True)
class Paths:
    """Absolute paths. Folders need not exist; the first of several is where new files belong."""

    data_dir: Path
    models_dir: Path
    checkpoint_dirs: tuple[Path, ...]
    shipped_checkpoint_dir: Path | None
    """The checkpoint that comes with the program, used while `checkpoint_dirs` hold none.
    None when `--models-dir` is given."""
    vae_dirs: tuple[Path, ...]
    taesd_dir: Path
    lora_dirs: tuple[Path, ...]
    embeddings_dir: Path
    hypernetwork_dir: Path
    controlnet_dirs: tuple[Path, ...]
    upscaler_dirs: dict[str, Path]
    """Kind (`ESRGAN`, `RealESRGAN`, `SwinIR`, `ScuNET`, `DAT`, `HAT`, `BSRGAN`, `LDSR`) to folder."""
    interrogate_dir: Path
    nsfw_dir: Path
    """The classifier of `--enable-nsfw-censor`."""
    gfpgan_dirs: tuple[Path, ...]
    codeformer_dir: Path
    face_detection_dir: Path
    outputs_dir: Path
    cache_dir: Path
    options_file: Path
    styles_files: tuple[Path, ...]

    @classmethod
    def from_flags(cls, flags: Flags) -> Paths:
        if isinstance(flags, UserFlags):
            return _of_user(cls.from_flags(flags.server), flags.server, _absolute(flags.data_dir))
        data = _absolute(flags.data_dir)
        models = _absolute(flags.models_dir) if flags.models_dir else _models_below(data)
        return cls(
            data_dir=data,
            models_dir=models,
            checkpoint_dirs=_several(models / CHECKPOINT_FOLDER, flags.ckpt_dir),
            shipped_checkpoint_dir=None if flags.models_dir else _shipped_checkpoints(),
            vae_dirs=_several(models / "VAE", flags.vae_dir),
            taesd_dir=models / "VAE-taesd",
            lora_dirs=_several(models / "Lora", flags.lora_dir, flags.lyco_dir_backcompat or str(models / "LyCORIS")),
            embeddings_dir=_one(flags.embeddings_dir, _embeddings_below(data, models)),
            hypernetwork_dir=_one(flags.hypernetwork_dir, models / "hypernetworks"),
            controlnet_dirs=_several(models / "ControlNet", flags.controlnet_dir),
            upscaler_dirs=_upscaler_dirs(flags, models),
            interrogate_dir=_one(flags.clip_models_path, models / "interrogate"),
            nsfw_dir=models / "nsfw",
            gfpgan_dirs=_several(_one(flags.gfpgan_models_path, models / "GFPGAN"), flags.gfpgan_dir),
            codeformer_dir=_one(flags.codeformer_models_path, models / "Codeformer"),
            face_detection_dir=models / "facedetection",
            outputs_dir=data / "outputs",
            cache_dir=data / "cache",
            options_file=_one(flags.ui_settings_file, data / "config.json"),
            styles_files=_styles_files(flags.styles_file, data),
        )

    @property
    def controlnet_dir(self) -> Path:
        return self.controlnet_dirs[0]

    def by_flag(self) -> dict[str, str]:
        """What the flags of A1111 that have a path by default stand for here when nobody gives them."""
        own = {
            "models_dir": self.models_dir,
            "embeddings_dir": self.embeddings_dir,
            "hypernetwork_dir": self.hypernetwork_dir,
            "lora_dir": self.lora_dirs[0],
            "lyco_dir_backcompat": self.models_dir / "LyCORIS",
            "codeformer_models_path": self.codeformer_dir,
            "gfpgan_models_path": self.gfpgan_dirs[0],
            "ui_settings_file": self.options_file,
            "ui_config_file": self.data_dir / "ui-config.json",
        }
        upscalers = {f"{kind.lower()}_models_path": folder for kind, folder in self.upscaler_dirs.items()}
        return {name: str(path) for name, path in {**upscalers, **own}.items()}

    def with_own_networks(self) -> Paths:
        """For who makes embeddings and hypernetworks: never in a folder that other users read."""
        embeddings, hypernetworks = self.models_dir / "embeddings", self.models_dir / "hypernetworks"
        return replace(self, embeddings_dir=embeddings, hypernetwork_dir=hypernetworks)

    def resolve(self, path: str) -> Path:
        """An output folder as an option spells it: relative ones lie below `data_dir`."""
        return self.data_dir / Path(path).expanduser()


def _of_user(server: Paths, flags: Flags, home: Path) -> Paths:
    """The rules of the cluster edition: checkpoints and control models from both the user's and the public folders,
    LoRAs from the user's and the one of `--lora-dir`; VAEs, GFPGAN, embeddings and hypernetworks from the user's or,
    where a flag names one, from that public folder alone. What else there is is the server's."""
    models = _models_below(home)
    return replace(
        server,
        data_dir=home,
        models_dir=models,
        checkpoint_dirs=(models / CHECKPOINT_FOLDER, *server.checkpoint_dirs),
        vae_dirs=(_one(flags.vae_dir, models / "VAE"),),
        lora_dirs=_several(models / "Lora", str(models / "LyCORIS"), flags.lora_dir, flags.lyco_dir_backcompat),
        embeddings_dir=_one(flags.embeddings_dir, models / "embeddings"),
        hypernetwork_dir=_one(flags.hypernetwork_dir, models / "hypernetworks"),
        controlnet_dirs=(models / "ControlNet", *server.controlnet_dirs),
        gfpgan_dirs=(_one(flags.gfpgan_dir, models / "GFPGAN"),),
        outputs_dir=home / "outputs",
        options_file=home / "config.json",
        styles_files=(home / "styles.csv",),
    )


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _one(given: str | None, otherwise: Path) -> Path:
    return _absolute(given) if given else otherwise


def _several(first: Path, *more: str | None) -> tuple[Path, ...]:
    candidates = [first, *(_absolute(path) for path in more if path)]
    return tuple(dict.fromkeys(candidates))


def _models_below(data: Path) -> Path:
    """`model_store`, or `models` where a data folder of A1111 is mounted."""
    ours, theirs = data / "model_store", data / "models"
    return theirs if theirs.is_dir() and not ours.is_dir() else ours


def _embeddings_below(data: Path, models: Path) -> Path:
    """A1111 keeps embeddings beside `models`, we keep them inside; an existing folder decides."""
    theirs = data / "embeddings"
    return theirs if theirs.is_dir() else models / "embeddings"


def _shipped_checkpoints() -> Path:
    return Path(default_data_dir()) / "model_store" / CHECKPOINT_FOLDER


def _upscaler_dirs(flags: Flags, models: Path) -> dict[str, Path]:
    given = {
        "ESRGAN": flags.esrgan_models_path,
        "RealESRGAN": flags.realesrgan_models_path,
        "SwinIR": flags.swinir_models_path,
        "ScuNET": flags.scunet_models_path,
        "DAT": flags.dat_models_path,
        "BSRGAN": flags.bsrgan_models_path,
        "LDSR": flags.ldsr_models_path,
    }
    return {kind: _one(path, models / kind) for kind, path in given.items()} | {"HAT": models / "HAT"}


def _styles_files(patterns: tuple[str, ...], data: Path) -> tuple[Path, ...]:
    """Files and patterns, looked up below the current folder, then below `data`. Missing files stay listed."""
    found: list[Path] = []
    for pattern in patterns or ["styles.csv"]:
        places = [data] if not patterns else [Path.cwd(), data]
        matches = next(filter(None, (sorted(glob.glob(str(place / pattern))) for place in places)), None)
        found += [Path(match).absolute() for match in matches] if matches else [places[0] / pattern]
    return tuple(dict.fromkeys(found))
