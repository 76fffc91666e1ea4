"""What can be chosen for settings that name a file, a sampler, a tab or a language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sdwebui_api.api.services import Services
from sdwebui_api.webui.generation.network_cards import ORDERS
from sdwebui_api.webui.localization import t
from sdwebui_api.webui.settings.form import Choices

LANGUAGE_NAMES = {"zh_CN": "简体中文", "en": "English"}
"""Each in its own language, so that every reader finds theirs."""


def choices_of(services: Services, languages: Iterable[str], tabs: Sequence[tuple[str, str]]) -> Choices:
    """tabs: (label, id). Reads what the catalogues hold already; refreshes nothing."""
    catalog = services.catalog
    upscalers = [scaler.name for scaler in catalog.upscalers.all()]
    return {
        "sd_model_checkpoint": _same(checkpoint.known_title for checkpoint in catalog.checkpoints.all()),
        "sd_vae": [(t("Automatic"), "Automatic"), (t("None"), "None"), *_same(vae.name for vae in catalog.vaes.all())],
        "upscaler_for_img2img": [(t("None"), ""), *_same(name for name in upscalers if name != "None")],
        "sd_lora": [(t("None"), "None"), *_same(network.name for network in catalog.loras.all())],
        "sd_hypernetwork": [(t("None"), "None"), *_same(network.name for network in catalog.hypernetworks.all())],
        "hide_samplers": _same(str(row["name"]) for row in services.sampler_rows),
        "localization": [
            (t("As the browser"), "None"),
            *((LANGUAGE_NAMES.get(language, language), language) for language in languages),
        ],
        "hidden_tabs": list(tabs),
        "extra_networks_card_order_field": [(label, name) for name, label in ORDERS.items()],
        "extra_networks_card_order": [(t("Ascending"), "Ascending"), (t("Descending"), "Descending")],
        "extra_networks_hidden_models": [
            (t("Always"), "Always"),
            (t("When searched"), "When searched"),
            (t("Never"), "Never"),
        ],
    }


def _same(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]
