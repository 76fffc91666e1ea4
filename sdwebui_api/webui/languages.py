"""The page in the reader's language and colours: what `mount_page` puts around gradio's application."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import Scope

from sdwebui_api.api.services import Services
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.paths import Paths
from sdwebui_api.webui.localization import Texts
from sdwebui_api.webui.localization.choice import choose_language
from sdwebui_api.webui.localization.layer import LanguageLayer

THEMES = ("dark", "light")
THEME_KEY = "sdwebui_theme"
"""Where a browser keeps what its reader chose with the button of the page (localStorage)."""


def language_layer(services: Services, texts: Texts) -> Middleware:
    """For gradio's `app_kwargs={"middleware": [...]}`: inside of its compression."""
    head = theme_script(services.flags.theme)
    return Middleware(
        LanguageLayer,
        translate=texts.translate,
        language_of=lambda scope: language_of(scope, services, texts),
        head=lambda: head,
    )


def localizations_folder(flags: Flags) -> Path:
    given = flags.localizations_dir
    return Path(given).expanduser() if given else Paths.from_flags(flags).data_dir / "localizations"


def language_of(scope: Scope, services: Services, texts: Texts) -> str:
    setting = services.options.snapshot().localization
    accepted = Headers(scope=scope).get("accept-language", "")
    return choose_language(services.flags.localization, setting, accepted, texts.languages)


def theme_script(flag: str | None) -> str:
    """Dark or light: the address (`?__theme=dark`), else the reader's choice, else `--theme`, else the system's."""
    theme = json.dumps(flag.lower() if flag and flag.lower() in THEMES else "")
    return f"""<script>(() => {{
const address = new URL(location.href);
let chosen = null;
try {{ chosen = localStorage.getItem("{THEME_KEY}"); }} catch (error) {{ console.info("no storage", error); }}
chosen = chosen || {theme};
if (chosen && !address.searchParams.has("__theme")) {{
address.searchParams.set("__theme", chosen);
history.replaceState(null, "", address);
}}
}})();</script>"""
