"""X/Y/Z plot: a picture for every combination of up to three settings, laid out as a grid with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from sdwebui_api.config.option_table import OPTION_TABLE
from sdwebui_api.errors import BadRequest, Cancelled, SdWebUIError
from sdwebui_api.generation.request import GeneratedImage
from sdwebui_api.scripting.checks import MAX_MARGIN, whole
from sdwebui_api.scripting.hooks import (
    Argument,
    Arguments,
    Files,
    GenerationRequest,
    GenerationResult,
    Kind,
    Listed,
    Script,
    ScriptContext,
)
from sdwebui_api.scripting.results import Collected
from sdwebui_api.scripting.xyz.plot import AxisArguments, Cell, Plot, PlotAxis, read_axis
from sdwebui_api.scripting.xyz.sheets import draw_overview, draw_sheets
from sdwebui_api.scripting.xyz.table import axes_for, find_axis

TITLE = "X/Y/Z plot"


class XyzPlot(Script):
    title = TITLE

    def arguments_for(self, kind: Kind, files: Files) -> tuple[Argument, ...]:
        labels = tuple(axis.label for axis in axes_for(kind))
        axes = [
            argument
            for name, default in (("X", "Seed"), ("Y", "Nothing"), ("Z", "Nothing"))
            for argument in (
                Argument(f"{name.lower()}_type", default, f"{name} type", choices=labels),
                Argument(f"{name.lower()}_values", "", f"{name} values"),
                Argument(
                    f"{name.lower()}_values_dropdown",
                    None,
                    f"{name} values",
                    choices=(),
                    listed=Listed(f"{name.lower()}_type", f"{name.lower()}_values", "csv_mode"),
                ),
            )
        ]
        return (
            *axes,
            Argument("draw_legend", True, "Draw legend"),
            Argument("include_lone_images", False, "Include Sub Images"),
            Argument("include_sub_grids", False, "Include Sub Grids"),
            Argument("no_fixed_seeds", False, "Keep -1 for seeds"),
            Argument("vary_seeds_x", False, "Vary seeds for X"),
            Argument("vary_seeds_y", False, "Vary seeds for Y"),
            Argument("vary_seeds_z", False, "Vary seeds for Z"),
            Argument("margin_size", 0, "Grid margins (px)", 0, 500, 2),
            Argument("csv_mode", False, "Use text inputs instead of dropdowns"),
        )

    def listed(self, argument: str, chosen: str, kind: Kind, files: Files) -> Sequence[str]:
        choices = find_axis(chosen, kind, argument).choices
        return choices(files) if choices is not None else ()

    def run(self, request: GenerationRequest, args: Arguments, context: ScriptContext) -> GenerationResult:
        whole(args.margin_size, 0, MAX_MARGIN, "Grid margins (px)")
        plot = read_plot(request, args)
        if not request.options.return_grid:
            request = replace(request, batch_size=1)
        if args.no_fixed_seeds and request.random_seed:
            request = replace(request, seed=-1)  # drawn anew for every cell
        plot.check(request, context)
        _check_size(request, plot)
        passes = 2 if request.hires else 1
        context.set_total(plot.count * request.n_iter * passes)
        drawn = _draw_cells(request, plot, context)
        return _answer(drawn, request, plot, args, context)


def read_plot(request: GenerationRequest, args: Arguments) -> Plot:
    def axis(name: str) -> PlotAxis:
        key = name.lower()
        listed = args[f"{key}_values_dropdown"] or ()
        listed = listed if isinstance(listed, (list, tuple)) else (listed,)
        arguments = AxisArguments(name, args[f"{key}_type"], args[f"{key}_values"], listed, "script_args")
        return read_axis(arguments, request.kind, csv_mode=args.csv_mode, keep_random_seeds=args.no_fixed_seeds)

    return Plot(axis("X"), axis("Y"), axis("Z"), (args.vary_seeds_x, args.vary_seeds_y, args.vary_seeds_z))


def _check_size(request: GenerationRequest, plot: Plot) -> None:
    megapixels = round(plot.count * request.width * request.height / 1_000_000)
    limit = request.options.img_max_size_mp
    if megapixels >= limit:
        raise BadRequest(
            f"Resulting grid would be too large ({megapixels} MPixels) (max configured size is {limit} MPixels)",
            field="script_args",
        )


@dataclass
class _Drawn:
    """What the cells became, by their place in the answer, and the requests that each sheet began with."""

    collected: Collected = field(default_factory=Collected)
    results: dict[int, GenerationResult] = field(default_factory=dict)
    sheet_requests: dict[int, GenerationRequest] = field(default_factory=dict)
    errors: list[SdWebUIError] = field(default_factory=list)


def _draw_cells(request: GenerationRequest, plot: Plot, context: ScriptContext) -> _Drawn:
    drawn = _Drawn()
    for cell in plot.cells():
        context.job.check()
        if context.job.interrupted and drawn.results:
            break
        index = plot.index(cell)
        try:
            wanted = plot.request(request, cell, context)
            context.job.start_batch(f"{index + 1} out of {plot.count}", wanted.steps)
            if cell.x == cell.y == 0:
                drawn.sheet_requests[cell.z] = wanted
            result = drawn.collected.add(context.generate(wanted))
        except Cancelled:
            raise
        except SdWebUIError as error:
            # One impossible combination leaves its place empty, as in A1111; the others are still worth having.
            context.warn(f"{TITLE}: picture {index + 1} failed: {error.message}")
            drawn.errors.append(error)
            continue
        if result.images:
            drawn.results[index] = result
    if drawn.errors and not drawn.results:
        raise drawn.errors[0]
    return drawn


def _answer(
    drawn: _Drawn, request: GenerationRequest, plot: Plot, args: Arguments, context: ScriptContext
) -> GenerationResult:
    """Overview, sheets and pictures, and the lists of `info`; they run as they do in A1111's answer."""
    if not drawn.results:
        return drawn.collected.results[-1]  # interrupted before anything was there
    first = drawn.results[min(drawn.results)]
    images, prompts, seeds, texts = _cells_in_order(drawn, plot, first)
    sheets = draw_sheets(images, plot, request.options, legend=args.draw_legend, margin=args.margin_size)
    overview = draw_overview(sheets, plot, request.options, legend=args.draw_legend)
    overview_text, *sheet_texts = _grid_infotexts(drawn, plot, args, context)
    grids = [overview, *sheets] if args.include_sub_grids else [overview]
    grid_texts = [overview_text, *sheet_texts] if args.include_sub_grids else [overview_text]
    if request.options.grid_save and not request.do_not_save_grid:
        _save([overview, *sheets], [overview_text, *sheet_texts], request, plot, args, context)
    answered = [
        GeneratedImage(image, text, "grid", described=False) for image, text in zip(grids, grid_texts, strict=True)
    ]
    if args.include_lone_images:
        answered += [GeneratedImage(image, text) for image, text in zip(images, texts, strict=True)]
    starts = range(0, plot.count, plot.cells_per_sheet) if args.include_sub_grids else ()
    info = {
        **first.info,
        "all_prompts": [prompts[start] for start in starts] + prompts,
        "all_seeds": [seeds[start] for start in starts] + seeds,
        "index_of_first_image": 1,
        "infotexts": [*grid_texts, *texts],
        "warnings": drawn.collected.warnings,
    }
    return GenerationResult(answered, info)


def _cells_in_order(
    drawn: _Drawn, plot: Plot, first: GenerationResult
) -> tuple[list[Image.Image], list[Any], list[Any], list[str]]:
    """Pictures, prompts, seeds and infotexts of all cells; places that stayed empty are black."""
    blank = Image.new(first.images[0].image.mode, first.images[0].image.size)
    images, prompts, seeds, texts = [], [], [], []
    for index in range(plot.count):
        result = drawn.results.get(index)
        images.append(result.images[0].image if result else blank)
        prompts.append(result.info["prompt"] if result else None)
        seeds.append(result.info["seed"] if result else None)
        texts.append(result.info["infotexts"][0] if result else "")
    return images, prompts, seeds, texts


def _grid_infotexts(drawn: _Drawn, plot: Plot, args: Arguments, context: ScriptContext) -> list[str]:
    """Of the overview, then of every sheet: its first picture's, and what the axes were."""
    fixed = not args.no_fixed_seeds
    axes = {"Script": TITLE, **plot.x.infotext(fixed_seeds=fixed), **plot.y.infotext(fixed_seeds=fixed)}
    every_axis = axes | plot.z.infotext(fixed_seeds=fixed)
    texts = [_describe(drawn, plot, 0, every_axis, context)]
    return texts + [_describe(drawn, plot, sheet, axes, context) for sheet in range(plot.sheets)]


def _describe(drawn: _Drawn, plot: Plot, sheet: int, axes: dict[str, Any], context: ScriptContext) -> str:
    request = drawn.sheet_requests.get(sheet)
    if request is None:
        return ""
    result = drawn.results.get(plot.index(Cell(0, 0, sheet)))
    extra = result.info["extra_generation_params"] if result else {}
    return context.infotext(_without_overrides(request), extra={**extra, **axes})


def _without_overrides(request: GenerationRequest) -> GenerationRequest:
    """As A1111, which describes grids when the overridden settings are back at their values."""
    values = {name: OPTION_TABLE[name].default for name in request.override_settings}
    return replace(request, options=request.options.with_values(values))


def _save(
    grids: list[Image.Image],
    texts: list[str],
    request: GenerationRequest,
    plot: Plot,
    args: Arguments,
    context: ScriptContext,
) -> None:
    """The overview, and the sheets too when there are several and they are wanted."""
    count = len(grids) if args.include_sub_grids and plot.sheets > 1 else 1
    for grid, text in zip(grids[:count], texts[:count], strict=True):
        context.save(grid, request, text, grid=True, suffix="-xyz_grid")
