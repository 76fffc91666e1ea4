"""`launch.py frontend`: queue routes for workers elsewhere. Starts in about a second, needs no model and no torch."""

from __future__ import annotations

import sys

from sdwebui_api import serving
from sdwebui_api.api.frontend import create_frontend
from sdwebui_api.api.queue import build_queue, callback_check
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.errors import SdWebUIError


def serve(flags: Flags) -> int:
    """Runs until stopped. 0 after an orderly stop, 1 when it could not start."""
    try:
        queue = build_queue(flags, Paths.from_flags(flags).data_dir)
        app = create_frontend(flags, queue, callback_check(flags))
    except SdWebUIError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    config = serving.server_config(app, flags)
    server = serving.Server(config, lambda: serving.announce(flags, server, "front end"), queue.closing.set)
    server.run()
    return 0 if server.started else 1
