"""The arrows of the architecture: who may import whom, read from every import in the source, inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sdwebui_api"

# From the top down: a room imports rooms of later lines, never of earlier ones, and none of its own line but itself.
# The vocabulary of the work floor (frozen values and the text form of parameters, nothing that runs) stands below jobs.
LEVELS = (
    ("__main__",),
    ("cli",),
    ("worker_main",),
    ("app", "frontend"),
    ("serving", "staffing", "cluster"),
    ("webui",),
    ("api",),
    ("queueing",),
    ("metrics",),
    ("generation",),
    ("scripting",),
    ("postprocess", "control"),
    ("jobs",),
    ("vocabulary",),
    ("prompting",),
    ("sampling",),
    ("engine",),
    ("imaging",),
    ("storage",),
    ("catalog",),
    ("config",),
    ("errors", "__init__"),
)
VOCABULARY = ("generation.request", "generation.plan", "generation.infotext")
DOORS = ("api", "webui", "queueing")
TORCH = {"torch", "diffusers", "transformers", "accelerate", "torchsde", "safetensors"}
WEB = {"fastapi", "starlette", "gradio", "uvicorn"}
PARTS = ("prompting", "sampling", "engine", "imaging", "storage", "catalog", "config", "errors")
WITHOUT_TORCH = (*DOORS, "metrics", "cli", "errors", "config", "catalog", "jobs", "storage", "imaging")
WITHOUT_WEB = ("metrics", "generation", "vocabulary", "scripting", "postprocess", "control", "jobs", *PARTS)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts), path


@cache
def imports() -> dict[str, tuple[tuple[int, str], ...]]:
    """Module → (line, dotted name imported), wherever in the file, `if TYPE_CHECKING` included."""
    return {name: tuple(_imports_of(name, path)) for name, path in modules()}


def _imports_of(module: str, path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: write imports in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room(module: str) -> str:
    """`sdwebui_api.engine.loading` → `engine`; the rooms that are single files by their own name."""
    name = module.removeprefix("sdwebui_api.")
    if ".".join(name.split(".")[:2]) in VOCABULARY:
        return "vocabulary"
    return "__init__" if module in ("sdwebui_api", "sdwebui_api.__version__") else name.split(".")[0]


LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}


def internal() -> Iterator[tuple[str, int, str]]:
    for module, found in imports().items():
        for line, target in found:
            if target.split(".")[0] == "sdwebui_api":
                yield module, line, target


def test_every_room_has_a_level():
    assert {room(module) for module in imports()} <= LEVEL.keys()


def test_imports_point_down():
    wrong = [
        f"{module}:{line} imports {target}"
        for module, line, target in internal()
        if room(module) != room(target) and LEVEL[room(module)] >= LEVEL[room(target)]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("rooms", "libraries"),
    [(WITHOUT_TORCH, TORCH), (WITHOUT_WEB, WEB)],
    ids=["no torch in doors and the lowest rooms", "no web framework below the doors"],
)
def test_libraries_stay_in_their_rooms(rooms, libraries):
    wrong = [
        f"{module}:{line} imports {target}"
        for module, found in imports().items()
        for line, target in found
        if room(module) in rooms and target.split(".")[0] in libraries
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    known = imports().keys()
    graph = {module: set[str]() for module in known}
    for module, _, target in internal():
        owner = target if target in known else target.rpartition(".")[0]
        if owner in known and owner != module:
            graph[module].add(owner)
    assert not _cycle(graph)


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules left when those that import nothing unresolved are taken away again and again."""
    left = dict(graph)
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


@pytest.mark.parametrize(
    "module", ["cli", "config.flags", "config.options", "catalog.checkpoints", "errors", "jobs.job"]
)
def test_light_modules_load_nothing_heavy(module):
    """What `ast` cannot see: an import that comes in through a third package."""
    question = f"import sys, sdwebui_api.{module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", question], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "diffusers", "transformers", "scipy", "cv2", "fastapi", "gradio"}
    assert not heavy & set(answer.stdout.split())
