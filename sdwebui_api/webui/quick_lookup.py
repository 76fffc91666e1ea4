"""Two functions of gradio's program for the browser, quicker.

Its page looks for a component by walking through all of them, for every value that an event reads or writes and for
every sign of progress; and for the events of a component through all events of the page. With more than a thousand
components six of the seven seconds that a browser computed until the page could be used went there, and one at every
click. Here both are found by tables.

The file is changed on its way to the browser, and only if it is the one that is known: another release of gradio is
served as it is.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import gradio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

ASSETS = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"

# The component with id `t` below `e`, which is always the root. Its table holds until the root's children are others.
FIND = """function Z(e,t){if(e.id===t)return e;if(e.children)for(let n of e.children){let e=Z(n,t);if(e)return e}\
return null}"""
QUICK_FIND = """const tables=new WeakMap;
function enter(node,table){table.set(node.id,node);for(const child of node.children??[])enter(child,table);return table}
function Z(e,t){
let known=tables.get(e);
if(!known||known.children!==e.children)tables.set(e,known={children:e.children,table:enter(e,new Map)});
return known.table.get(t)??null}"""

# What `gr.render` drew takes the place of what it drew before, somewhere below the root.
REPLACE = "a.children=i.children,this.#f(i)"
QUICK_REPLACE = "tables.delete(this.root),a.children=i.children,this.#f(i)"

# The names of the events of the component `e` that the dependencies `t` wait for, at most one of each dependency.
EVENTS = """find_attached_events(e,t){let n=t.filter(t=>t.targets.find(([t])=>t===e.id)).map(t=>{let n=t.targets.find(\
([t])=>t===e.id);return n?n[1]:null}).filter(Boolean);return e.props.shared_props.attached_events=n,e}"""
QUICK_EVENTS = """find_attached_events(e,t){
let known=tables.get(t);
if(!known){
known=new Map;
for(const one of t)
for(const [id,event] of new Map([...one.targets].reverse()))
if(event)known.set(id,[...known.get(id)??[],event]);
tables.set(t,known)}
return e.props.shared_props.attached_events=[...known.get(e.id)??[]],e}"""

CHANGES = {FIND: QUICK_FIND, REPLACE: QUICK_REPLACE, EVENTS: QUICK_EVENTS}


@dataclass(frozen=True)
class Asset:
    name: str
    content: bytes
    headers: dict[str, str]


def quick_asset(folder: Path = ASSETS) -> Asset | None:
    """The changed file; None if no file of this gradio holds all that is to be changed."""
    for file in sorted(folder.glob("core-*.js")):
        text = file.read_text(encoding="utf-8")
        if all(text.count(slow) == 1 for slow in CHANGES):
            for slow, quick in CHANGES.items():
                text = text.replace(slow, quick)
            content = text.encode()
            tag = hashlib.sha256(content).hexdigest()[:32]
            changed = formatdate(file.stat().st_mtime, usegmt=True)
            return Asset(file.name, content, {"ETag": f'"{tag}"', "Last-Modified": changed})
    log.warning("gradio %s looks for its components in a way that the page does not know", gradio.__version__)
    return None


class QuickLookup:
    """Answers for that one file, and leaves everything else to `app`."""

    def __init__(self, app: ASGIApp, asset: Asset) -> None:
        self._app = app
        self._asset = asset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asset = self._asset
        if scope["type"] != "http" or not scope["path"].endswith(f"/assets/{asset.name}"):
            await self._app(scope, receive, send)
        elif Headers(scope=scope).get("if-none-match") == asset.headers["ETag"]:
            await Response(status_code=304, headers=asset.headers)(scope, receive, send)
        else:
            await Response(asset.content, media_type="text/javascript", headers=asset.headers)(scope, receive, send)
