"""`--cluster`: one server that every user sees as if it were an own one.

Shared are the engine with its weights, the runner, the scripts, and what the program brings; a user's own are files,
settings and what is looked up among files. Both doors work on a view of `Services` and know nothing of all this.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from sdwebui_api.api.services import Services
from sdwebui_api.catalog.upscalers import HiresUpscalers
from sdwebui_api.catalog.whole import build_catalog, face_restorers
from sdwebui_api.config.flags import UserFlags
from sdwebui_api.config.options import UserOptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.config.users import OWN_FOLDERS, home_of
from sdwebui_api.errors import NotStored

log = logging.getLogger(__name__)

KEPT = 256
"""Views of users who have gone, the latest made. Lists of files, no weights."""

Equip = Callable[[Services, Paths], None]
"""Gives a view its own `generator`, `engine` and `trainer`."""


class UserViews:
    """The services of each user, made when they are first asked for. Thread-safe.

    There is never more than one view of a user, for it holds the settings; it may be forgotten when nobody uses it.
    """

    def __init__(self, server: Services, equip: Equip) -> None:
        self._server = server
        self._equip = equip
        self._lock = threading.Lock()
        self._all: WeakValueDictionary[str, Services] = WeakValueDictionary()
        self._lately: OrderedDict[str, Services] = OrderedDict()

    def known(self, user: str) -> Services | None:
        return self._all.get(user)

    def __call__(self, user: str) -> Services:
        """Raises NotStored when the user's folders cannot be made."""
        with self._lock:
            view = self._all.get(user)
            if view is None:
                view = self._all[user] = self._lately[user] = self._make(user)
                while len(self._lately) > KEPT:
                    self._lately.popitem(last=False)
            return view

    def _make(self, user: str) -> Services:
        server = self._server
        data_dir = Paths.from_flags(server.flags).data_dir
        home = home_of(user, data_dir)
        flags = UserFlags.of(server.flags, home)
        paths = Paths.from_flags(flags)
        _make_folders(paths)
        view = copy.copy(server)
        view.views = view.stop_server = None
        view.flags, view.options = flags, UserOptionStore(paths.options_file, server.options)
        view.catalog = catalog = build_catalog(flags, paths, server.catalog.hashes)
        names = HiresUpscalers(catalog.upscalers)
        view.resolver = replace(server.resolver, files=catalog, upscaler_names=names)
        view.faces = server.faces.with_files(face_restorers(flags, paths))
        view.control = server.control.with_models(catalog.control_models)
        view.merge_folder = paths.checkpoint_dirs[0]
        if server.results is not None:
            view.results = server.results.with_roots(server.results.roots.of_user(home))
            if server.links is not None:
                view.links = server.links.with_fetchers(view.results.fetchers())
        self._equip(view, paths)
        log.info("user %r works in %s", user, home)
        return view


def _make_folders(paths: Paths) -> None:
    """Where the user's files belong, so that they can be put there."""
    own: list[Path] = [paths.outputs_dir, *(paths.models_dir / name for name in OWN_FOLDERS)]
    try:
        for folder in own:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotStored(f"the folder of this user cannot be made: {error.strerror or error}") from error
