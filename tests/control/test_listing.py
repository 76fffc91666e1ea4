"""Which of the extension's preprocessors are listed, and why the others are not."""

from __future__ import annotations

import json
from typing import Any

from sdwebui_api.control.preprocessors.table import PREPROCESSORS
from sdwebui_api.control.service import _detail
from sdwebui_api.control.types import control_types, in_listing_order
from tests.parity.cases import GOLDEN

NOT_LISTED = {
    "revision_clipvision": "for SDXL, whose checkpoints are not supported",
    "revision_ignore_prompt": "for SDXL",
    "ip-adapter_pulid": "for SDXL; needs EVA-CLIP besides",
    "depth_hand_refiner": "needs MANO's model of hands, whose licence forbids to pass it on, and MediaPipe",
}
TYPES_NOT_LISTED = {
    "Revision": "its preprocessors are for SDXL",
    "SparseCtrl": "its models are for animations, which are not made here",
}


def recorded(name: str) -> Any:
    return json.loads((GOLDEN / "api" / f"controlnet-get-{name}.json").read_text())["response"]


def test_every_recorded_preprocessor_is_listed_or_has_a_reason() -> None:
    theirs = recorded("module_list")["module_list"]
    assert set(NOT_LISTED) <= set(theirs)
    ours = [one.name for one in in_listing_order(PREPROCESSORS)]
    assert ours == [name for name in theirs if name not in NOT_LISTED]


def test_labels_and_sliders_are_the_recorded_ones() -> None:
    by_name, by_label = recorded("module_list"), recorded("module_list-alias_names-true")
    labels = dict(zip(by_name["module_list"], by_label["module_list"], strict=True))
    for one in PREPROCESSORS:
        assert one.label == labels[one.name]
        assert _detail(one) == by_name["module_detail"][one.name] == by_label["module_detail"][one.label], one.name


def test_every_recorded_control_type_is_listed_or_has_a_reason() -> None:
    theirs = recorded("control_types")["control_types"]
    ours = control_types(PREPROCESSORS, ())
    assert list(ours) == [name for name in theirs if name not in TYPES_NOT_LISTED]
    missing = {label for name, label in _labels().items() if name in NOT_LISTED}
    for name, found in ours.items():
        assert list(found.modules) == [label for label in theirs[name]["module_list"] if label not in missing], name
        assert found.default_module == theirs[name]["default_option"], name


def _labels() -> dict[str, str]:
    names, labels = (recorded(f"module_list{kind}")["module_list"] for kind in ("", "-alias_names-true"))
    return dict(zip(names, labels, strict=True))
