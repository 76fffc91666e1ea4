"""From the command line to a running server. `--help` is answered before anything heavy is imported."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from sdwebui_api.config.flags import Flags, parse_flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.engine.allocator import keep_large_blocks

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until stopped; the exit code is 0 after an orderly stop and 1 when the server could not start.

    The first word may be a command: `frontend`, the queue's doors alone, or `worker`, the engine without doors.
    """
    _configure_logging()
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words[:1] and words[0] in COMMANDS else "serve"
    flags = parse_flags(words)
    logging.getLogger().setLevel(flags.loglevel or logging.INFO)
    if flags.api_log or flags.api_log_prompts:
        _write_bare("sdwebui_api.api_log")
    port = flags.metrics_port if command == "worker" else flags.port
    problem = _port_problem(flags.host, port) if port is not None else None
    if command == "serve":
        problem = problem or _data_problem(flags)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return COMMANDS[command](flags)


def _serve(flags: Flags) -> int:
    _set_up_process(flags)
    from sdwebui_api.app import serve  # seconds of imports, which --help and a taken port need not wait for

    return int(serve(flags) or 0)


def _serve_worker(flags: Flags) -> int:
    _set_up_process(flags)
    from sdwebui_api.worker_main import serve

    return serve(flags)


def _set_up_process(flags: Flags) -> None:
    """What has to be said before torch is imported."""
    _end_briefly()
    _spin_briefly()
    keep_large_blocks()
    if flags.blade:  # compiled code outlives the process
        folder = Paths.from_flags(flags).cache_dir / "compiled"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _end_briefly() -> None:
    """An orderly stop does not search the objects of torch, diffusers and transformers for garbage once more.

    Python does by itself, though the kernel takes all of it back a moment later: 1.4 s of a core after the last line
    of the log, in which whoever restarts the server waits. What is registered later still runs before.
    """
    atexit.register(gc.freeze)


def _spin_briefly() -> None:
    """How long OpenMP's threads spin while they wait for each other; read when torch is imported.

    The default of about 300,000 turns made a picture of 0.6 s take 23 s on cores that others used too; not spinning at
    all made it take 1.3 s on idle ones. This costs 10 % there. Who sets either variable by hand keeps what they set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def _serve_frontend(flags: Flags) -> int:
    from sdwebui_api.frontend import serve

    return serve(flags)


COMMANDS: Mapping[str, Callable[[Flags], int]] = {
    "serve": _serve,
    "frontend": _serve_frontend,
    "worker": _serve_worker,
}


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # They write every address, with the secrets of those that are signed.
    for name in ("httpx", "httpcore", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _write_bare(name: str) -> None:
    """The logger's messages are whole lines (JSON), for programs to read: nothing stands before them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def _data_problem(flags: Flags) -> str | None:
    """Why the data folder, which is made here, cannot serve; None when it can.

    The page keeps what browsers upload in it. The API alone answers from a folder that cannot be written, too, with a
    warning where it should have saved something.
    """
    folder = Paths.from_flags(flags).data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not flags.nowebui:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"cannot write to the data folder {folder} ({error.strerror or error}); choose another with --data-dir"
    return None


def _port_problem(host: str, port: int) -> str | None:
    """Why the server cannot listen at `host`:`port`; None when it can. Port 0 stands for any free one.

    Asked before the seconds of loading; uvicorn would find out after them.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if sys.platform != "win32":  # as uvicorn binds; on Windows the option means something else
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return f"cannot listen on {host}:{port} ({error.strerror or error}); choose another port with --port"
    return None
