"""`modules.extra_networks`: kinds of `<kind:…>` tags that extensions bring."""

from __future__ import annotations

from typing import Any

from sdwebui_api.prompting.extra_networks import parse_extra_networks
from sdwebui_api.scripting.compat.params import ExtraNetworkParams
from sdwebui_api.scripting.compat.world import world

__all__ = ["ExtraNetwork", "ExtraNetworkParams", "parse_prompt", "parse_prompts", "register_extra_network"]


class ExtraNetwork:
    """`activate(p, params)` is called before the batches whose prompts name it, with [] where none does."""

    def __init__(self, name: str) -> None:
        self.name = name

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None:
        raise NotImplementedError

    def deactivate(self, p: Any) -> None:
        raise NotImplementedError


def register_extra_network(extra_network: ExtraNetwork) -> None:
    world().extra_networks[extra_network.name] = extra_network


def register_extra_network_alias(extra_network: ExtraNetwork, alias: str) -> None:
    world().extra_networks[alias] = extra_network


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    text, networks = parse_extra_networks(prompt)
    found: dict[str, list[ExtraNetworkParams]] = {}
    for network in networks:
        found.setdefault(network.kind, []).append(ExtraNetworkParams(list(network.items)))
    return text, found


def parse_prompts(prompts: list[str]) -> tuple[list[str], dict[str, list[ExtraNetworkParams]]]:
    """The prompts without tags, and the tags of the first one."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else {}


def __getattr__(name: str) -> Any:
    if name in ("extra_network_registry", "extra_network_aliases"):
        return world().extra_networks
    raise AttributeError(f"modules.extra_networks.{name} is not offered by this server")
