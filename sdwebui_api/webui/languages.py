"""The page in the reader's language and colours: what `mount_page` puts around gradio's application."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import Scope

from sdwebui_api.api.services import Services, services_in
from sdwebui_api.config.flags import Flags
from sdwebui_api.config.options import Options
from sdwebui_api.config.paths import Paths
from sdwebui_api.webui.localization import Texts
from sdwebui_api.webui.localization.choice import choose_language
from sdwebui_api.webui.localization.layer import LanguageLayer

THEMES = ("dark", "light")
THEME_KEY = "sdwebui_theme"
"""Where a browser keeps what its reader chose with the button of the page (localStorage)."""


def language_layer(services: Services, texts: Texts) -> Middleware:
    """For gradio's `app_kwargs={"middleware": [...]}`: inside of its compression."""
    theme = theme_script(services.flags.theme)
    return Middleware(
        LanguageLayer,
        translate=texts.translate,
        language_of=lambda scope: language_of(scope, services_in(scope, services), texts),
        head=lambda scope: theme + _user_script(scope, services) + tab_script(_options(scope, services)),
    )


def _options(scope: Scope, services: Services) -> Options:
    return services_in(scope, services).options.snapshot()


def _user_script(scope: Scope, services: Services) -> str:
    """`--cluster`: what a browser remembers of one user's page is gone when another opens it there."""
    if services.views is None:
        return ""
    user = hashlib.sha256(str(scope["state"]["user"]).encode()).hexdigest()
    return f"""<script>(() => {{
if (localStorage.getItem("sdwebui_user") === "{user}") return;
const own = Object.keys(localStorage).filter((key) => key.startsWith("sdwebui_") && key !== "{THEME_KEY}");
own.forEach((key) => localStorage.removeItem(key));
localStorage.setItem("sdwebui_user", "{user}");
}})();</script>"""


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
window.sdwebuiTheme = {{ toggle() {{
const theme = document.body.classList.toggle("dark") ? "dark" : "light";
localStorage.setItem("{THEME_KEY}", theme);
const address = new URL(location.href);
address.searchParams.set("__theme", theme);
history.replaceState(null, "", address);
}} }};
}})();</script>"""


def tab_script(options: Options) -> str:
    """The settings `hidden_tabs` and `ui_tab_order`, of ids or labels, as a change of what gradio is about to draw.

    So they need no page that is built anew, and may differ from user to user.
    """
    hidden, order = hidden_tab_ids(options), [_tab_id(name) for name in options.ui_tab_order]
    if not hidden and not order:
        return ""
    return f"""<script>(() => {{
const hidden = {json.dumps(hidden)}, order = {json.dumps(order)}, config = window.gradio_config || {{}};
const tabs = new Map((config.components || []).filter((one) => one.type === "tabitem")
.map((one) => [one.id, one.props]));
for (const props of tabs.values()) if (hidden.includes(props.id)) props.visible = false;
const rank = (node) => {{
const place = order.indexOf(tabs.get(node.id)?.id);
return place < 0 ? order.length : place;
}};
const sort = (node) => {{
const children = node.children || [];
if (children.some((child) => rank(child) < order.length)) children.sort((one, other) => rank(one) - rank(other));
else children.forEach(sort);
}};
for (const part of [config, ...Object.values(config.page || {{}})]) if (part.layout) sort(part.layout);
}})();</script>"""


def hidden_tab_ids(options: Options) -> list[str]:
    """Never that of the settings, by which they come back."""
    return [id for id in map(_tab_id, options.hidden_tabs) if id != "settings"]


def _tab_id(name: str) -> str:
    """Ids are labels in lower case with underscores; nothing else reaches the page."""
    return re.sub(r"\W+", "_", name.strip().lower(), flags=re.ASCII)
