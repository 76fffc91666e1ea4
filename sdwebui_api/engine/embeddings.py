"""Textual inversion: which embeddings there are for a text encoder, and finding them in a prompt."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from sdwebui_api.catalog.embeddings import EmbeddingFile, list_embeddings
from sdwebui_api.engine.embedding_files import Embedding, read_embedding
from sdwebui_api.errors import UnusableModel

log = logging.getLogger(__name__)


class EmbeddingDatabase:
    """The embeddings that fit one text encoder. Immutable: a job sees the same ones from start to end."""

    def __init__(
        self, embeddings: Iterable[Embedding], tokenize: Callable[[str], list[int]], width: int, version: int = 0
    ) -> None:
        ordered = sorted(embeddings, key=lambda embedding: embedding.name.lower())
        self.width = width
        self.version = version
        """Differs when the files have changed."""
        self.loaded: dict[str, Embedding] = {e.name: e for e in ordered if e.shape == width}
        self.skipped: dict[str, Embedding] = {e.name: e for e in ordered if e.shape != width}
        """Those made for text encoders of another width."""
        self._by_first_token: dict[int, list[tuple[list[int], Embedding]]] = defaultdict(list)
        for embedding in self.loaded.values():
            tokens = tokenize(embedding.name)
            if tokens:
                self._by_first_token[tokens[0]].append((tokens, embedding))
        for candidates in self._by_first_token.values():
            candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)

    def with_more(self, embeddings: Iterable[Embedding], tokenize: Callable[[str], list[int]]) -> EmbeddingDatabase:
        """This one and those that come inside networks; a name that is taken keeps its meaning, as in A1111."""
        more = {e.name: e for e in embeddings if e.name not in self.loaded and e.name not in self.skipped}
        if not more:
            return self
        everything = [*self.loaded.values(), *self.skipped.values(), *more.values()]
        return EmbeddingDatabase(everything, tokenize, self.width, self.version)

    def find_at(self, tokens: Sequence[int], offset: int) -> tuple[Embedding | None, int]:
        """The embedding whose name the tokens from `offset` on spell, the longest name first, and its token count."""
        for name, embedding in self._by_first_token.get(tokens[offset], ()):
            if list(tokens[offset : offset + len(name)]) == name:
                return embedding, len(name)
        return None, 0


class EmbeddingStore:
    """The embeddings on disk, read once per change of a file. Thread-safe."""

    def __init__(self, folders: Sequence[Path], *, hashing: bool = True, versions: Iterator[int] | None = None) -> None:
        """`versions`: numbers that no other store gives to files of its own, where encodings are shared."""
        self._versions = versions or count(1)
        self._folders = tuple(folders)
        self._hashing = hashing
        self._lock = threading.Lock()
        self._read: dict[EmbeddingFile, Embedding | None] = {}
        self._version = 0
        self._databases: dict[int, EmbeddingDatabase] = {}

    def refresh(self) -> None:
        """Read what is new or changed, drop what is gone. Broken files are left out, with a line in the log."""
        with self._lock:
            files = list_embeddings(self._folders)
            if set(files) == set(self._read):
                return
            self._read = {file: self._read[file] if file in self._read else self._load(file) for file in files}
            self._version = next(self._versions)
            self._databases = {}

    def database(self, tokenize: Callable[[str], list[int]], width: int) -> EmbeddingDatabase:
        """Of a text encoder `width` wide. All families share one vocabulary, hence one `tokenize`."""
        with self._lock:
            if width not in self._databases:
                found = [embedding for embedding in self._read.values() if embedding is not None]
                self._databases[width] = EmbeddingDatabase(found, tokenize, width, self._version)
            return self._databases[width]

    def _load(self, file: EmbeddingFile) -> Embedding | None:
        try:
            return read_embedding(file.path, file.name, hashing=self._hashing)
        except (UnusableModel, OSError) as error:
            log.warning("embedding left out: %s", error)
            return None
