"""Do pictures follow their hints? Canny edges of 20 pictures against the hint, with and without the ControlNet unit.

    python -m benchmarks.edge_agreement [--count 20] [--steps 20] [--picture docs/images/controlnet-canny.png]

The server's own code draws, in this process. Each hint is the outline of a popular emoji, mirrored, made smaller and
moved off the middle; the prompt only names it, or is empty. The figure is the mean F1 of edge pixels with a tolerance
of 2 pixels (`training/edges.py`). The peer is the same request without the unit, so the ratio says what the unit does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.bare_engine import BareEngine
from sdwebui_api.imaging.codec import encode_image, to_base64
from training.control_evaluation import Case, cases
from training.edges import EVALUATION_THRESHOLDS, agreement, canny
from training.evaluate import contact_sheet
from training.glyphs import load_glyphs

ROOT = Path(__file__).parent.parent
MODEL = "emoji-mini-canny"


@dataclass(frozen=True)
class Pair:
    """One case drawn with the unit and without it."""

    case: Case
    controlled: Image.Image
    free: Image.Image

    @property
    def scores(self) -> tuple[float, float]:
        """F1 against the hint: (with, without)."""
        controlled, free = (agreement(self.case.hint, canny(picture)) for picture in (self.controlled, self.free))
        return controlled, free


def body(case: Case, prompted: bool, steps: int, unit: bool) -> dict[str, Any]:
    width, height = case.source.size
    fields: dict[str, Any] = {
        "prompt": case.prompt if prompted else "",
        "seed": case.seed,
        "steps": steps,
        "cfg_scale": 5,
        "width": width,
        "height": height,
        "sampler_name": "Euler",
    }
    if unit:
        low, high = EVALUATION_THRESHOLDS
        control = {
            "enabled": True,
            "image": to_base64(encode_image(case.source, "png")),
            "module": "canny",
            "model": MODEL,
            "pixel_perfect": True,
            "threshold_a": low,
            "threshold_b": high,
        }
        fields["alwayson_scripts"] = {"ControlNet": {"args": [control]}}
    return fields


def draw_pairs(engine: BareEngine, some: Sequence[Case], prompted: bool, steps: int) -> list[Pair]:
    pairs = []
    for case in some:
        controlled, free = (engine.generate(body(case, prompted, steps, unit))[1] for unit in (True, False))
        pairs.append(Pair(case, controlled.convert("RGB"), free.convert("RGB")))
    return pairs


def table_row(label: str, pairs: Sequence[Pair]) -> str:
    controlled, free = (mean(scores) for scores in zip(*(pair.scores for pair in pairs), strict=True))
    return f"| {label} | {len(pairs)} | {controlled:.2f} | {free:.2f} | {controlled / free:.1f}x |"


def sheet(pairs: Sequence[Pair]) -> Image.Image:
    """Rows of hints, pictures with the unit, pictures without it."""
    hints = [Image.fromarray(pair.case.hint).convert("RGB") for pair in pairs]
    rows = [hints, [pair.controlled for pair in pairs], [pair.free for pair in pairs]]
    labels = [*("hint" for _ in pairs), *(pair.case.prompt for pair in pairs), *("without the unit" for _ in pairs)]
    return contact_sheet([picture for row in rows for picture in row], labels, columns=len(pairs))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge_agreement", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="pictures (default 20)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default 20)")
    parser.add_argument("--models-dir", type=Path, default=ROOT / "model_store")
    parser.add_argument("--picture", type=Path, help="write hints and pictures of the first 8 cases here")
    options = parser.parse_args()
    engine, some = BareEngine(options.models_dir), cases(load_glyphs(), options.count)
    print("| prompt | n | with | without | ratio |\n|---|---|---|---|---|")
    named = draw_pairs(engine, some, True, options.steps)
    print(table_row("names the object", named), flush=True)
    print(table_row("empty", draw_pairs(engine, some, False, options.steps)))
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        sheet(named[:8]).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
