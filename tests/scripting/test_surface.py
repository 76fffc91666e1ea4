"""Every name of A1111 that eleven popular extensions use (`surface.txt`): offered, or left out on purpose."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdwebui_api.catalog.whole import build_catalog
from sdwebui_api.config.options import OptionStore
from sdwebui_api.config.paths import Paths
from sdwebui_api.scripting.compat import world
from sdwebui_api.scripting.compat.legacy import LegacyWorld
from tests.support.fakes import golden_flags

NAMES = (Path(__file__).parent / "surface.txt").read_text().split()

# Prefix → why. Whatever is below it is left out, too.
NOT_OFFERED = {
    "modules.api.models": "A1111's pydantic models of the API; agent-scheduler builds its own from their insides",
    "modules.cmd_args": "the parser of A1111's command line",
    "modules.models.diffusion": "A1111's copies of samplers, patched in place",
    "modules.unipc": "A1111's copies of samplers, patched in place",
    "modules.sd_hijack.apply_optimizations": "attention is the engine's",
    "modules.sd_hijack.current_optimizer": "attention is the engine's",
    "modules.sd_hijack_optimizations": "attention is the engine's",
    "modules.sd_models.get_checkpoint_state_dict": "weights belong to the engine's cache",
    "modules.sd_models_config": "configurations are found by the weights",
    "modules.sd_samplers_common.apply_refiner": "replacing guidance",
    "modules.shared.sd_model.conditioner": "SDXL's text encoders as A1111 lays them out",
    "modules.shared.sd_model.forge_objects": "Forge's, not A1111's",
    "modules.shared.sd_model.network_layer_mapping": "networks are merged by the engine",
    "modules.shared.sd_model.model.diffusion_model": "the UNet is shared by all jobs and not laid out as A1111's",
}
# There once the extension that uses them has declared them.
DECLARED_BY_EXTENSIONS = (
    "modules.shared.opts.beautifulprompt_", "modules.shared.opts.dp_", "modules.shared.opts.queue_",
    "modules.shared.opts.wildcards_", "modules.shared.cmd_opts.wildcards_dir",
    "modules.shared.cmd_opts.agent_scheduler_sqlite_file",
)  # fmt: skip
ONLY_IN_A_JOB = ("modules.shared.sd_model.model",)
WITHOUT_A_VALUE = ("modules.shared.cmd_opts.api_auth.split", "modules.shared.cmd_opts.lyco_dir")


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LegacyWorld]:
    """The world of a server without extensions."""
    flags = golden_flags(tmp_path_factory.mktemp("surface"))
    paths = Paths.from_flags(flags)
    before = list(world._worlds)
    yield LegacyWorld(world.World(flags, paths, OptionStore(paths.options_file), build_catalog(flags, paths)))
    world._worlds[:] = before


def look_up(name: str) -> Any:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def left_out(name: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in NOT_OFFERED)


@pytest.mark.parametrize("name", NAMES)
def test_name(name):
    if left_out(name):
        with pytest.raises((AttributeError, ImportError, RuntimeError)):
            look_up(name)
    elif name.startswith(ONLY_IN_A_JOB):
        with pytest.raises(RuntimeError, match="only while a job"):
            look_up(name)
    elif name in WITHOUT_A_VALUE or name.startswith(DECLARED_BY_EXTENSIONS):
        with pytest.raises(AttributeError):
            look_up(name)
    else:
        look_up(name)


def test_what_is_left_out_says_so():
    with pytest.raises(ModuleNotFoundError, match=r"sd_hijack_optimizations is not offered by this server"):
        importlib.import_module("modules.sd_hijack_optimizations")
    with pytest.raises(AttributeError, match="forge_objects is not offered"):
        look_up("modules.shared.sd_model.forge_objects")


def test_what_a_job_registers_stays_unless_it_fails(loaded):
    """Two first jobs side by side register the same function: it is kept once."""
    from modules import script_callbacks  # type: ignore[import-not-found]

    request: Any = SimpleNamespace(options=world.current_options())
    context: Any = SimpleNamespace(warn=print)

    def registers(function: Any, *, fails: bool = False) -> None:
        with loaded.running(request, context, lambda *_: []):
            script_callbacks.on_cfg_denoised(function)
            assert [one.callback for one in world.callbacks_of("cfg_denoised")][-1] is function
            if fails:
                raise LookupError

    def known() -> list[Any]:
        return [one.callback for one in world.callbacks_of("cfg_denoised")]

    with pytest.raises(LookupError):
        registers(print, fails=True)
    assert known() == []
    registers(print)
    registers(print)
    registers(repr)
    assert known() == [print, repr]
    with loaded.running(request, context, lambda *_: []):
        script_callbacks.remove_callbacks_for_function(print)
        assert known() == [repr]
    assert known() == [repr]
    script_callbacks.remove_callbacks_for_function(repr)


def test_names_are_one_object():
    import modules.shared as theirs  # type: ignore[import-not-found]
    from modules import shared as again  # type: ignore[import-not-found]

    from sdwebui_api.scripting.compat.modules import shared as ours

    assert theirs is ours is again and ours.__name__.startswith("sdwebui_api.")
    assert ours.__spec__.name == ours.__name__
