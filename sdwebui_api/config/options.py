"""The settings as objects: an immutable snapshot that a request carries, and the store that keeps them on disk."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdwebui_api.config.option_table import OPTION_TABLE, OptionSpec
from sdwebui_api.errors import BadRequest, nearest, not_stored

logger = logging.getLogger(__name__)

Table = Mapping[str, OptionSpec]

OF_ALL_USERS = ("disabled_extensions", "disable_all_extensions")
"""Settings of the whole program, which no user of `--cluster` may change."""


def coerce_values(
    values: Mapping[str, Any], field: str, table: Table = OPTION_TABLE
) -> tuple[dict[str, Any], list[str]]:
    """The settings among `values` as they are held, and a warning for every name that is no setting.

    `null` means the default. Settings that the API may not change are left out silently; so are A1111's explanation
    texts, which clients post back with the whole object. Raises BadRequest(422) naming `field.name`.
    """
    accepted: dict[str, Any] = {}
    warnings = []
    for name, value in values.items():
        spec = table.get(name)
        if spec is None:
            if not _is_explanation(name):
                warnings.append(f"{field}: unknown option {name[:100]!r} is ignored{_suggestion(name, table)}")
        elif spec.settable:
            accepted[name] = spec.coerce(value, f"{field}.{name}")
    return accepted, warnings


def _is_explanation(name: str) -> bool:
    return name.endswith("_explanation") or name == "settings_in_ui"


def _suggestion(name: str, table: Table) -> str:
    close = nearest(name[:100], table, count=1)
    return f", did you mean {close[0]!r}?" if close else ""


class Options(Mapping[str, Any]):
    """All settings at one moment: `options.randn_source`, `options["randn_source"]`. Never changes.

    Whole numbers are ints and lists are tuples here; `as_dict` gives the form of GET /options.
    """

    __slots__ = ("_table", "_values")

    def __init__(self, values: Mapping[str, Any] = MappingProxyType({}), table: Table = OPTION_TABLE) -> None:
        """`values` must already be coerced; names that are missing have their default."""
        self._table = table
        self._values = {name: spec.default for name, spec in table.items()} | dict(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # slots not filled yet: copy and pickle look here before __init__ ran
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no option {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        changed = {name: value for name, value in self._values.items() if value != self._table[name].default}
        return f"Options({changed})"

    @property
    def table(self) -> Table:
        """What there is to set, those of extensions included."""
        return self._table

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with ints and floats where A1111 answers them."""
        return {name: self._table[name].wire(value) for name, value in self._values.items()}

    def merged(self, values: Mapping[str, Any], field: str = "override_settings") -> Options:
        """These settings with `values` over them; unknown names are ignored.

        Raises BadRequest(422) naming `field.name` for a value of the wrong type or out of range.
        """
        return self.with_values(coerce_values(values, field, self._table)[0])

    def with_values(self, coerced: Mapping[str, Any]) -> Options:
        """The same with values that `coerce_values` has already seen (or that the server computes itself)."""
        return Options({**self._values, **coerced}, self._table)


class OptionStore:
    """The settings of this server, kept in a JSON file that A1111 would read too.

    Reading takes no lock: `snapshot` hands out the current immutable `Options`. The file holds what differs from
    the defaults, what was in it before, and keys unknown here (those of A1111's extensions).
    """

    def __init__(
        self,
        path: Path,
        table: Table = OPTION_TABLE,
        *,
        frozen: bool = False,
        frozen_names: Collection[str] = (),
    ) -> None:
        """Reads `path` if it exists. `frozen`: refuse every change; `frozen_names`: refuse these."""
        self._path = path
        self._table = table
        self._frozen = frozen
        self._frozen_names = frozenset(frozen_names)
        self._lock = threading.Lock()
        self._file = _read_json_object(path)
        self._options = Options(self._stored_values(), table)

    def snapshot(self) -> Options:
        return self._options

    def extend(self, table: Table) -> None:
        """More settings (an extension's), with the values the file holds for them. Known names stay as they are."""
        with self._lock:
            self._table = {**table, **self._table}
            self._options = Options(self._stored_values(), self._table)

    def update(self, values: Mapping[str, Any], field: str = "options") -> list[str]:
        """Takes over and saves `values`, all of them or none; returns a warning per unknown name.

        Raises BadRequest(422) naming `field.name`, or NotStored when the file cannot be written.
        """
        coerced, warnings = coerce_values(values, field, self._table)
        with self._lock:
            self._take_over(coerced, field)
        return warnings

    def _take_over(self, coerced: Mapping[str, Any], field: str) -> None:
        """Under the lock."""
        changed = {name: value for name, value in coerced.items() if value != self._options[name]}
        self._refuse_frozen(changed, field)
        if changed:
            options = self._options.with_values(changed)
            contents = self._contents(options)
            self._write(contents)
            self._file, self._options = contents, options

    def keep(self, values: Mapping[str, Any]) -> None:
        """Takes over and saves settings that clients may not change, such as `disabled_extensions`; as `update`."""
        with self._lock:
            coerced = {name: self._table[name].coerce(value, f"options.{name}") for name, value in values.items()}
            self._take_over(coerced, "options")

    def is_frozen(self, name: str) -> bool:
        return self._frozen or name in self._frozen_names

    def _stored_values(self) -> dict[str, Any]:
        """What the file says."""
        values = {}
        for name in self._file.keys() & self._table.keys():
            try:
                values[name] = self._table[name].coerce(self._file[name], name)
            except BadRequest as error:
                logger.warning("%s: %s; the default is used", self._path, error.message)
        return values

    def _refuse_frozen(self, changed: Collection[str], field: str) -> None:
        for name in changed:
            if self.is_frozen(name):
                raise BadRequest(f"{field}.{name}: settings are frozen on this server", field=f"{field}.{name}")

    def _contents(self, options: Options) -> dict[str, Any]:
        contents = dict(self._file)
        for name, value in options.as_dict().items():
            if name in contents or options[name] != self._table[name].default:
                contents[name] = value
        return contents

    def _write(self, contents: Mapping[str, Any]) -> None:
        try:
            write_json_atomically(self._path, contents)
        except OSError as error:
            raise not_stored(self._path.name, self._path.parent, error) from error


class UserOptionStore(OptionStore):
    """One user's settings above the server's: what the user has not set follows the server."""

    def __init__(self, path: Path, server: OptionStore) -> None:
        """`path`: the user's file. What is frozen on the server is so here, and what concerns everybody too."""
        self._server = server
        self._below = server.snapshot()
        frozen_names = {*server._frozen_names, *OF_ALL_USERS}
        super().__init__(path, self._below.table, frozen=server._frozen, frozen_names=frozen_names)
        self._options = self._below.with_values(self._stored_values())

    def snapshot(self) -> Options:
        below = self._server.snapshot()
        if below is not self._below:
            with self._lock:
                self._follow(below)
        return self._options

    def _take_over(self, coerced: Mapping[str, Any], field: str) -> None:
        if (below := self._server.snapshot()) is not self._below:
            self._follow(below)
        super()._take_over(coerced, field)

    def _follow(self, below: Options) -> None:
        """Under the lock."""
        self._below, self._table = below, below.table
        self._options = below.with_values(self._stored_values())

    def _stored_values(self) -> dict[str, Any]:
        stored = super()._stored_values()
        return {name: value for name, value in stored.items() if name not in OF_ALL_USERS}

    def _contents(self, options: Options) -> dict[str, Any]:
        contents = dict(self._file)
        for name, value in options.as_dict().items():
            if name in contents or options[name] != self._below[name]:
                contents[name] = value
        return contents


def _read_json_object(path: Path) -> dict[str, Any]:
    """The object in `path`; {} when there is none. A file that is no JSON object is moved aside."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict):
            raise ValueError(f"holds a {type(contents).__name__}, not an object")
        return contents
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        spare = path.with_name(path.name + ".broken")
        logger.warning("%s is unreadable (%s); moved to %s, starting with defaults", path, error, spare)
        try:
            path.replace(spare)
        except OSError as failure:
            logger.warning("could not move %s aside: %s", path, failure)
    except OSError as error:
        logger.warning("%s cannot be read (%s); starting with defaults", path, error)
    return {}


def write_json_atomically(path: Path, contents: Any) -> None:
    """Replaces `path` in one step, on disk before this returns. Raises OSError; the old file stays then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("x", encoding="utf-8") as file:
            json.dump(contents, file, indent=4, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
