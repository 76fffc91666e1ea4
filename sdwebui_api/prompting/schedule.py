"""Prompts that change while sampling: `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b|c]`.

Results equal those of A1111's `prompt_parser.get_learned_conditioning_prompt_schedules`. There an ambiguous grammar
is parsed in cubic time; here one pass with a stack finds the same reading, which follows from these observations:

- An edit, alternation or bracketed group only exists where everything between its brackets is well formed, so its
  opening bracket is the nearest one still open. A bracket that closes anything else makes all open brackets literal.
- Outside of groups, brackets and colons may stand for themselves, but `|` may not, nor a backslash with nothing to
  escape: such a prompt is not parsed at all and stays as it is for all steps.

Where an edit stands right beside a bracket or colon that is literal, as in `[a:b:3])`, A1111's reading changes from one
start of the program to the next (its parser breaks ties by Python's hash seed): either the edit or plain text. Here it
is always the edit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sdwebui_api.errors import BadRequest
from sdwebui_api.prompting.limits import MAX_SCHEDULE_LENGTH, check_nesting, check_prompt

_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\[^\n])+|.", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_CLOSES = {")": "(", "]": "["}


@dataclass(frozen=True)
class ScheduledPrompt:
    """`text` holds up to and including step `end_at_step` (1-based)."""

    end_at_step: int
    text: str


@dataclass(frozen=True)
class Timeline:
    """What a moment written in a prompt means: whole numbers count steps, decimal ones are fractions of `steps`.

    In the hires pass step numbers and fractions go on counting: with 20 first-pass steps, `23` is its third step and
    `1.5` its middle. The old timeline (A1111 before 1.6) knows one pass only, and decides by size instead of the dot.
    """

    steps: int
    step_offset: int = 0
    fraction_offset: float = 0.0
    old: bool = False

    @classmethod
    def of(cls, steps: int, hires_steps: int | None, use_old: bool) -> Timeline:
        if hires_steps is None or use_old:
            return cls(steps, old=use_old)
        return cls(hires_steps, step_offset=steps, fraction_offset=1.0)

    def step(self, moment: str) -> int:
        """The last step before the change, at most `steps`; below 1 when the change precedes the first step."""
        value = float(moment)
        if self.old:
            value = value * self.steps if value < 1 else value
        elif "." in moment:
            value = (value - self.fraction_offset) * self.steps
        else:
            value -= self.step_offset
        return int(max(-1.0, min(float(self.steps), value)))


@dataclass(frozen=True)
class _Edit:
    before: list[_Item]
    after: list[_Item]
    when: int


@dataclass(frozen=True)
class _Alternation:
    options: list[list[_Item]]


_Item: TypeAlias = "str | _Edit | _Alternation"


@dataclass
class _Group:
    """A bracket that is still open: what follows it, cut at its separators `:` and `|`."""

    bracket: str
    parts: list[list[_Item]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def literal(self) -> list[_Item]:
        """The same text with the bracket and its separators standing for themselves."""
        if "|" in self.separators:
            raise _Unparsable
        items: list[_Item] = [self.bracket, *self.parts[0]]
        for separator, part in zip(self.separators, self.parts[1:], strict=True):
            items += [separator, *part]
        return items


class _Unparsable(Exception):
    """The prompt has no reading; it is used as it stands."""


class _Parser:
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.top: list[_Item] = []
        self.groups: list[_Group] = []
        self.steps = {timeline.steps}

    def parse(self, prompt: str) -> list[_Item]:
        for token in _TOKEN.findall(prompt):
            self._take(token)
        self._spill()
        return self.top

    def _take(self, token: str) -> None:
        if token in ("(", "["):
            self.groups.append(_Group(token))
            check_nesting(len(self.groups))
        elif token in (")", "]"):
            self._close(token)
        elif token in (":", "|"):
            self._separate(token)
        elif token == "\\":
            raise _Unparsable
        else:
            self._current().append(token)

    def _current(self) -> list[_Item]:
        return self.groups[-1].parts[-1] if self.groups else self.top

    def _separate(self, token: str) -> None:
        if self.groups:
            self.groups[-1].separators.append(token)
            self.groups[-1].parts.append([])
        elif token == ":":
            self.top.append(token)
        else:
            raise _Unparsable

    def _close(self, bracket: str) -> None:
        group = self.groups[-1] if self.groups else None
        items = self._built(group, bracket) if group and group.bracket == _CLOSES[bracket] else None
        if items is None:
            self._spill()
            self.top.append(bracket)
        else:
            self.groups.pop()
            self._current().extend(items)

    def _spill(self) -> None:
        """No open bracket can be closed any more: all of them are plain text."""
        for group in self.groups:
            self.top += group.literal()
        self.groups.clear()

    def _built(self, group: _Group, closing: str) -> list[_Item] | None:
        """What the closed group stands for; None when it is no group at all."""
        if not group.separators or (group.bracket == "(" and group.separators == [":"]):
            return [*group.literal(), closing]
        if group.bracket == "(":
            return None
        if set(group.separators) == {"|"}:
            self.steps.update(range(1, self.timeline.steps + 1))
            return [_Alternation(group.parts)]
        return self._edit(group)

    def _edit(self, group: _Group) -> list[_Item] | None:
        moment = _moment(group.parts[-1])
        if moment is None or group.separators not in ([":"], [":", ":"]):
            return None
        when = self.timeline.step(moment)
        if when >= 1:
            self.steps.add(when)
        before = group.parts[0] if len(group.parts) == 3 else []
        return [_Edit(before, group.parts[-2], when)]


def _moment(part: list[_Item]) -> str | None:
    if len(part) != 1 or not isinstance(part[0], str):
        return None
    match = _WHEN.fullmatch(part[0])
    return match[1] if match else None


def _render(items: list[_Item], step: int, out: list[str]) -> None:
    """Append the text that `items` have at `step` (1-based) to `out`. Recursion is bounded by MAX_NESTING."""
    for item in items:
        if isinstance(item, str):
            out.append(item)
        elif isinstance(item, _Edit):
            _render(item.before if step <= item.when else item.after, step, out)
        else:
            _render(item.options[(step - 1) % len(item.options)], step, out)


def _text_at(items: list[_Item], step: int) -> str:
    out: list[str] = []
    _render(items, step, out)
    return "".join(out)


def parse_schedule(prompt: str, timeline: Timeline) -> list[ScheduledPrompt]:
    """The texts that `prompt` takes in turn, by rising `end_at_step`; the last one ends at `timeline.steps`.

    Texts of neighbouring entries may be equal. A prompt that the grammar cannot read is one entry, unchanged.
    Raises BadRequest(field="prompt") for absurd length or nesting.
    """
    check_prompt(prompt)
    parser = _Parser(timeline)
    try:
        items = parser.parse(prompt)
    except _Unparsable:
        return [ScheduledPrompt(timeline.steps, prompt)]
    if len(parser.steps) * len(prompt) > MAX_SCHEDULE_LENGTH:
        raise BadRequest("The prompt changes too often for its length", field="prompt")
    return [ScheduledPrompt(step, _text_at(items, step)) for step in sorted(parser.steps)]


def parse_schedules(
    prompts: Sequence[str], steps: int, hires_steps: int | None = None, use_old: bool = False
) -> list[list[ScheduledPrompt]]:
    """The schedule of each prompt, for the first pass of `steps` or, with `hires_steps`, for the hires pass after it.

    `use_old`: the option `use_old_scheduling`.
    """
    timeline = Timeline.of(steps, hires_steps, use_old)
    schedules = {prompt: parse_schedule(prompt, timeline) for prompt in dict.fromkeys(prompts)}
    return [schedules[prompt] for prompt in prompts]


def timelines_differ(prompts: Sequence[str], steps: int, hires_steps: int | None = None) -> bool:
    """Whether the old timeline changes anything; then infotext says `Old prompt editing timelines: True`."""
    return parse_schedules(prompts, steps, hires_steps, False) != parse_schedules(prompts, steps, hires_steps, True)
