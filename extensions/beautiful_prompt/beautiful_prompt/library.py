"""Which models expand prompts: the grammars that ship, and the folders of language models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beautiful_prompt.grammar import GRAMMARS
from beautiful_prompt.templates import CHAT, CONTINUATION, PAI_V1, PAI_V2, Template, own_template
from sdwebui_api.errors import BadRequest, UnusableModel, nearest

FOLDER = "BeautifulPrompt"
DEFAULT = "default"
TEMPLATE_FILE = "beautiful_prompt.json"
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class LanguageModelFolder:
    """A causal language model in the format of transformers."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def architecture(self) -> str:
        """`bloom`, `gpt2`, …; empty when config.json does not say."""
        return str(_json_of(self.path / "config.json").get("model_type", ""))

    def template(self) -> Template:
        """Its own file, else by the name (today's or that of its origin), else by what its tokenizer knows.

        Raises UnusableModel when the file is wrong.
        """
        if (self.path / TEMPLATE_FILE).is_file():
            return self._own_template()
        names = f"{self.name} {_json_of(self.path / 'config.json').get('_name_or_path', '')}".lower()
        if "text2prompt-sd" in names:
            return PAI_V2 if "text2prompt-sd-v2" in names else PAI_V1
        chats = (self.path / "chat_template.jinja").is_file()
        return CHAT if chats or _json_of(self.path / "tokenizer_config.json").get("chat_template") else CONTINUATION

    def _own_template(self) -> Template:
        try:
            return own_template(_json_of(self.path / TEMPLATE_FILE))
        except ValueError as error:
            raise UnusableModel(f"{self.path / TEMPLATE_FILE}: {error}") from None


@dataclass(frozen=True)
class Library:
    """What there is now: looks into the folders each time it is asked, so new ones appear by themselves."""

    models_dirs: Sequence[Path]

    def folders(self) -> Iterator[LanguageModelFolder]:
        """Each with config.json and weights; of two with one name the first."""
        seen: set[str] = set()
        for place in self.models_dirs:
            home = place / FOLDER
            for path in sorted(home.iterdir()) if home.is_dir() else ():
                if path.name not in seen and _is_model(path):
                    seen.add(path.name)
                    yield LanguageModelFolder(path)

    def names(self) -> list[str]:
        """What `find` finds: language models first, for they are what somebody put there to be used."""
        return [*(folder.name for folder in self.folders()), *GRAMMARS]

    def find(self, name: str | None, field: str = "model") -> LanguageModelFolder | str:
        """The folder, or a grammar's name. Nothing, or "default": the first of `names`. Letter case does not matter.

        Raises BadRequest with the choices.
        """
        names = self.names()
        wanted = (name or "").strip().lower()
        found = next((one for one in names if one.lower() == wanted), None)
        if wanted in ("", DEFAULT):
            found = names[0]
        if found is None:
            where = f"{(self.models_dirs or (Path(),))[0] / FOLDER}"
            raise BadRequest(
                f"There is no model {str(name)[:100]!r}; folders of language models belong into {where}",
                field=field,
                choices=nearest(wanted, names, 20),
            )
        return next((folder for folder in self.folders() if folder.name == found), found)

    def rows(self) -> list[dict[str, Any]]:
        """As GET /beautifulprompt/v1/models answers them."""
        rows = [_row(folder) for folder in self.folders()]
        return rows + [
            {"name": name, "kind": "phrase grammar", "title": grammar.title, "path": None, "template": None}
            for name, grammar in GRAMMARS.items()
        ]


def _row(folder: LanguageModelFolder) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": folder.name,
        "kind": "language model",
        "title": folder.name,
        "path": str(folder.path),
    }
    try:
        template = folder.template()
    except UnusableModel as error:
        return row | {"template": None, "error": error.message}
    return row | {
        "architecture": folder.architecture,
        "template": template.name,
        "temperature": template.temperature,
        "repetition_penalty": template.repetition_penalty,
    }


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() and any(next(path.glob(kind), None) for kind in _WEIGHTS)


def _json_of(path: Path) -> dict[str, Any]:
    """Empty when the file is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
