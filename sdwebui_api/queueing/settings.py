"""What the command line and an EAS service description say about the queue."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sdwebui_api.config.flags import Flags, without_password
from sdwebui_api.errors import BadRequest

DEFAULT_SERVICE: str = Flags.service_name
DEFAULT_PATH = "sdapi/v1/txt2img"
DEFAULT_MAX_DELIVERY = 1
SCHEMES = ("sqlite", "redis", "rediss")


@dataclass(frozen=True)
class QueueSettings:
    """Of one queue service. Seconds, bytes, items."""

    service: str
    url: str
    """Of the store: `sqlite:///FILE`, `redis://…` or `rediss://…`."""
    max_payload: int = 2**20
    """Of an item that a client puts."""
    max_length: int = 100_000
    """Of each queue; a longer one refuses puts."""
    retention: float = 86_400.0
    """How long unread results, task records and request ids are kept."""
    lease: float = 30.0
    max_delivery: int = DEFAULT_MAX_DELIVERY
    worker_threads: int | None = None
    """None: the worker's own choice. 0: no worker in this process."""
    drain_seconds: float = 120.0
    default_path: str = DEFAULT_PATH
    """The endpoint of an item that was put without one."""

    @property
    def sqlite_file(self) -> Path:
        """Of a `sqlite:` address."""
        return Path(unquote(urlsplit(self.url).path).removeprefix("/"))

    @property
    def shown_url(self) -> str:
        """Without the password."""
        return without_password(self.url)


def queue_is_on(flags: Flags) -> bool:
    """Otherwise `/api/predict/<service>/<path>` is answered at once, by `/<path>`."""
    return flags.nowebui or bool(flags.queue_url) or bool(flags.queue_config)


def queue_settings(flags: Flags, data_dir: Path) -> QueueSettings:
    """Flags win over `--queue-config`. Raises BadRequest, naming the flag, for what cannot be used."""
    described = _description(flags.queue_config)
    service = flags.service_name
    if service == DEFAULT_SERVICE:
        service = described.get("service", service)
    return QueueSettings(
        service=_service_name(service),
        url=_store_url(flags.queue_url, data_dir),
        max_payload=flags.queue_max_payload,
        max_length=flags.queue_max_length,
        retention=flags.queue_retention,
        lease=flags.queue_lease,
        max_delivery=flags.max_delivery or described.get("max_delivery", DEFAULT_MAX_DELIVERY),
        worker_threads=flags.worker_threads if flags.worker_threads is not None else described.get("worker_threads"),
        drain_seconds=flags.drain_seconds,
    )


def _service_name(name: str) -> str:
    if not name or "/" in name or quote(name, safe="") != name:
        raise BadRequest(f"--service-name: {name!r} may hold letters, digits and . _ - ~ only")
    return name


def _store_url(given: str | None, data_dir: Path) -> str:
    if not given:
        return f"sqlite:///{quote(str(data_dir / 'queue.sqlite3'))}"
    scheme, _, rest = given.partition("://")
    if scheme not in SCHEMES or not rest.strip("/") or not _is_address(given):
        accepted = "sqlite:///FILE, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"
        shown = without_password(given) if _is_address(given) else "this"
        raise BadRequest(f"--queue-url: {shown!r} is none of {accepted}")
    return given


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    # A database that is no number would be taken for the first one.
    return port != 0 and (not parts.scheme.startswith("redis") or re.fullmatch(r"(/[0-9]*)?", parts.path) is not None)


def _description(file: str | None) -> Mapping[str, Any]:
    """`service`, `worker_threads`, `max_delivery`, as far as the EAS service description names them.

    Of its many other keys (machine, image, storage) none concerns a running server.
    """
    if not file:
        return {}
    try:
        described = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(f"--queue-config: {file} cannot be read: {error}") from error
    metadata, queue = _section(described, "metadata"), _section(described, "queue")
    found = {
        "service": _text(metadata, "name"),
        "worker_threads": _whole(metadata, "rpc.worker_threads", 0),
        "max_delivery": _whole(queue, "max_delivery", 1),
    }
    return {name: value for name, value in found.items() if value is not None}


def _section(described: Any, name: str) -> Mapping[str, Any]:
    section = described.get(name, {}) if isinstance(described, dict) else None
    if not isinstance(section, dict):
        raise BadRequest(f"--queue-config: {name!r} must be an object of the service description")
    return section


def _text(section: Mapping[str, Any], key: str) -> str | None:
    value = section.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"--queue-config: {key!r} must be a text")
    return value


def _whole(section: Mapping[str, Any], key: str, smallest: int) -> int | None:
    value = section.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise BadRequest(f"--queue-config: {key!r} must be a whole number of at least {smallest}")
    return value
