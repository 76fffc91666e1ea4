"""From the fields of the four create and train routes to complete requests: names, folders and schedules looked up."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdwebui_api.catalog.embeddings import list_embeddings
from sdwebui_api.catalog.networks import HypernetworkCatalog
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.networks.hypernetworks import Architecture
from sdwebui_api.engine.training.captions import SHIPPED, FileNameWords, PromptWriter, read_template
from sdwebui_api.engine.training.dataset import ImageRules, image_files
from sdwebui_api.engine.training.hypernetwork import WEIGHT_INITS
from sdwebui_api.engine.training.loop import Clipping, LoopSettings
from sdwebui_api.engine.training.schedule import parse_schedule
from sdwebui_api.errors import BadRequest, NotFound, nearest
from sdwebui_api.generation.request import GenerationRequest
from sdwebui_api.storage.local import LocalStorage

if TYPE_CHECKING:
    from sdwebui_api.catalog.checkpoints import CheckpointFile
    from sdwebui_api.catalog.vaes import VaeFile
    from sdwebui_api.config.options import Options

Kind = Literal["embedding", "hypernetwork"]

LONGEST_NAME = 100
LONGEST_PART = 200
"""Bytes of a folder's name."""
DEFAULT_SIZE = (512, 512)
MAX_LAYERS = 32


@dataclass(frozen=True)
class NewEmbedding:
    name: str
    path: Path
    vectors: int
    init_text: str


@dataclass(frozen=True)
class NewHypernetwork:
    name: str
    path: Path
    widths: tuple[int, ...]
    architecture: Architecture
    weight_init: str
    use_dropout: bool


@dataclass(frozen=True)
class Records:
    """What a training leaves behind besides its result."""

    folder: Path
    """Every run gets a folder of its own below it."""
    save_every: int
    """Steps between copies of what is being taught; 0: none."""
    image_every: int
    """Steps between previews; 0: none."""
    image_with_embedding: bool
    csv_every: int
    settings: Mapping[str, Any] | None
    """Written to a text file; None: not wanted."""


@dataclass(frozen=True)
class TrainingRequest:
    kind: Kind
    name: str
    path: Path
    """The file that is read, and replaced at the end."""
    checkpoint: CheckpointFile
    vae: VaeFile | None
    options: Options
    images: tuple[Path, ...]
    rules: ImageRules
    file_words: FileNameWords
    writer: PromptWriter
    loop: LoopSettings
    records: Records
    preview: GenerationRequest | None
    preview_follows_prompts: bool
    """The preview's prompt is the one last learned from."""


@dataclass(frozen=True)
class TrainingFiles:
    """Where everything lies that these requests may name. Stateless; looks at the disk."""

    paths: Paths
    storage: LocalStorage

    def new_embedding(self, fields: Mapping[str, Any]) -> NewEmbedding:
        """Raises BadRequest naming the field."""
        name = clean_name(fields["name"])
        files = [file.path for file in list_embeddings([self.paths.embeddings_dir]) if file.name == name]
        _refuse_taken(bool(files) and not fields["overwrite_old"], f"embedding {name!r}")
        path = next((path for path in files if path.suffix == ".pt"), self.paths.embeddings_dir / f"{name}.pt")
        return NewEmbedding(name, path, fields["num_vectors_per_token"], fields["init_text"])

    def new_hypernetwork(self, fields: Mapping[str, Any]) -> NewHypernetwork:
        """Raises BadRequest naming the field."""
        name = clean_name(fields["name"])
        if name == "None":
            raise BadRequest("'None' means no hypernetwork", field="name")
        found = self._hypernetworks().find(name)
        _refuse_taken(found is not None and not fields["overwrite_old"], f"hypernetwork {name!r}")
        path = found.path if found else self.paths.hypernetwork_dir / f"{name}.pt"
        if fields["weight_init"] not in WEIGHT_INITS:
            raise BadRequest("unknown weight initialisation", field="weight_init", choices=WEIGHT_INITS)
        widths = tuple(dict.fromkeys(fields["enable_sizes"]))
        return NewHypernetwork(
            name, path, widths, _architecture(fields), fields["weight_init"], bool(fields["use_dropout"])
        )

    def training(
        self,
        kind: Kind,
        fields: Mapping[str, Any],
        options: Options,
        checkpoint: CheckpointFile,
        vae: VaeFile | None,
        preview: GenerationRequest | None,
    ) -> TrainingRequest:
        """Raises BadRequest and NotFound naming the field. Every path stays below the data directory."""
        name = fields[f"{kind}_name"]
        folder = self._image_folder(fields["data_root"])
        return TrainingRequest(
            kind=kind,
            name=name,
            path=self._embedding(name) if kind == "embedding" else self._hypernetwork(name),
            checkpoint=checkpoint,
            vae=vae,
            options=options,
            images=tuple(image_files(folder, self.paths.data_dir)),
            rules=_image_rules(fields, checkpoint),
            file_words=FileNameWords.from_options(
                options.dataset_filename_word_regex, options.dataset_filename_join_string
            ),
            writer=PromptWriter(
                templates=self._templates(kind, fields["template_filename"]),
                placeholder=name,
                shuffle_tags=fields["shuffle_tags"],
                tag_drop_out=fields["tag_drop_out"],
            ),
            loop=_loop(fields),
            records=self._records(kind, fields, options),
            preview=preview if fields["create_image_every"] else None,
            preview_follows_prompts=not fields["preview_from_txt2img"],
        )

    def _image_folder(self, spelled: str) -> Path:
        if not spelled.strip():
            raise BadRequest("this is no folder of images", field="data_root")
        _check_parts(spelled, "data_root")
        folder = Path(os.path.realpath(self.paths.data_dir / spelled.strip()))
        base = Path(os.path.realpath(self.paths.data_dir))
        if folder != base and base not in folder.parents:
            raise BadRequest("images are only read from folders in the data directory", field="data_root")
        if not folder.is_dir():
            raise BadRequest("there is no such folder in the data directory", field="data_root")
        return folder

    def _templates(self, kind: Kind, name: str) -> tuple[str, ...]:
        templates = read_template(name, [self.paths.data_dir / "textual_inversion_templates", SHIPPED])
        if kind == "embedding" and not any("[name]" in line or "[filewords]" in line for line in templates):
            raise BadRequest("no line has [name], so the word would never be used", field="template_filename")
        return templates

    def _embedding(self, name: str) -> Path:
        files = {file.name: file.path for file in list_embeddings([self.paths.embeddings_dir])}
        if name not in files:
            message = f"There is no embedding {name[:100]!r}; POST create/embedding makes one"
            raise NotFound(message, field="embedding_name", choices=nearest(name, files))
        if files[name].suffix.lower() != ".pt":
            raise BadRequest("only embeddings in .pt files can be trained further", field="embedding_name")
        return files[name]

    def _hypernetwork(self, name: str) -> Path:
        catalog = self._hypernetworks()
        found = catalog.find(name)
        if found is None:
            message = f"There is no hypernetwork {name[:100]!r}; POST create/hypernetwork makes one"
            names = [file.name for file in catalog.all()]
            raise NotFound(message, field="hypernetwork_name", choices=nearest(name, names))
        return found.path

    def _hypernetworks(self) -> HypernetworkCatalog:
        """Those of this moment."""
        catalog = HypernetworkCatalog(self.paths.hypernetwork_dir)
        catalog.refresh()
        return catalog

    def _records(self, kind: Kind, fields: Mapping[str, Any], options: Options) -> Records:
        spelled = fields["log_directory"].strip() or "textual_inversion"
        _check_parts(spelled, "log_directory")
        inside = Path(spelled).is_absolute() or Path(spelled).parts[:1] in (("log",), ("outputs",))
        return Records(
            folder=self.storage.folder(spelled if inside else f"log/{spelled}", "log_directory"),
            save_every=fields[f"save_{kind}_every"],
            image_every=fields["create_image_every"],
            image_with_embedding=kind == "embedding" and fields["save_image_with_stored_embedding"],
            csv_every=int(options.training_write_csv_every),
            settings=dict(fields) if options.save_training_settings_to_txt else None,
        )


def clean_name(text: str, field: str = "name") -> str:
    """Letters, digits, and `._- `, as A1111 keeps; what would hide the file or mean a folder is cut off the ends."""
    name = "".join(letter for letter in text if letter.isalnum() or letter in "._- ").strip(". ")
    if not name:
        raise BadRequest("a name needs a letter or a digit", field=field)
    if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        raise BadRequest(f"names have at most {LONGEST_NAME} characters", field=field)
    return name


def _check_parts(spelled: str, field: str) -> None:
    """What no file system takes as a path."""
    if "\0" in spelled or any(len(part.encode()) > LONGEST_PART for part in Path(spelled).parts):
        raise BadRequest("this cannot be a folder's name", field=field)


def _refuse_taken(taken: bool, what: str) -> None:
    if taken:
        raise BadRequest(f"The {what} exists already; it is replaced with overwrite_old", field="name")


def _architecture(fields: Mapping[str, Any]) -> Architecture:
    """Of A1111's fields; numbers may come as a list or as a text with commas."""
    structure = _numbers(fields["layer_structure"] or "1, 2, 1", "layer_structure", most=16.0)
    if not 2 <= len(structure) <= MAX_LAYERS or structure[0] != 1 or structure[-1] != 1:
        message = f"has to begin and end with 1 and have 2 to {MAX_LAYERS} entries, such as 1, 2, 1"
        raise BadRequest(message, field="layer_structure")
    dropout = [0.0] * len(structure)
    if fields["use_dropout"] and fields["dropout_structure"]:
        dropout = _numbers(fields["dropout_structure"], "dropout_structure", most=0.99)
        if len(dropout) != len(structure) or dropout[0] != 0:
            message = "needs as many entries as layer_structure, the first of them 0"
            raise BadRequest(message, field="dropout_structure")
    return Architecture(
        structure=tuple(int(factor) if factor == int(factor) else factor for factor in structure),
        activation=(fields["activation_func"] or "linear").strip().lower(),
        layer_norm=fields["add_layer_norm"],
        activate_output=False,
        dropout=tuple(dropout),
    )


def _numbers(given: str | Sequence[float], field: str, *, most: float) -> list[float]:
    parts = given.split(",") if isinstance(given, str) else given
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise BadRequest("has to be numbers separated by commas", field=field) from None
    if not all(0 <= number <= most for number in numbers):
        raise BadRequest(f"numbers have to be from 0 to {most:g}", field=field)
    return numbers


def _image_rules(fields: Mapping[str, Any], checkpoint: CheckpointFile) -> ImageRules:
    native = checkpoint.native_size or DEFAULT_SIZE
    return ImageRules(
        width=fields["training_width"] or native[0],
        height=fields["training_height"] or native[1],
        varsize=fields["varsize"],
        use_weight=fields["use_weight"],
        latent_sampling=fields["latent_sampling_method"],
    )


def _loop(fields: Mapping[str, Any]) -> LoopSettings:
    mode = fields["clip_grad_mode"]
    clipping = Clipping() if mode == "disabled" else Clipping(
        mode, parse_schedule(fields["clip_grad_value"], "clip_grad_value")
    )  # fmt: skip
    return LoopSettings(
        steps=fields["steps"],
        rate=parse_schedule(fields["learn_rate"], "learn_rate"),
        batch_size=fields["batch_size"],
        gradient_step=fields["gradient_step"],
        clipping=clipping,
        seed=secrets.randbits(62),
    )
