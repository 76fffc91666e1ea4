"""Which language a reader gets: `--localization`, else the setting, else what the browser asks for."""

from __future__ import annotations

from collections.abc import Sequence

ENGLISH = "en"
BY_BROWSER = ("", "none", "auto")
"""What the setting `localization` may say to leave it to the browser; A1111's default is "None"."""


def choose_language(flag: str | None, setting: str | None, accepted: str, languages: Sequence[str]) -> str:
    """One of `languages`. accepted: the header Accept-Language. A name that is not there counts as not given."""
    for wanted in (flag, setting):
        if wanted and wanted.strip().lower() not in BY_BROWSER:
            found = match_language(wanted, languages)
            if found is not None:
                return found
    for tag in _by_preference(accepted):
        found = match_language(tag, languages)
        if found is not None:
            return found
    return ENGLISH


def match_language(tag: str, languages: Sequence[str]) -> str | None:
    """`zh-CN`, `zh_cn` and `zh` are all zh_CN; without a table of its own zh-TW is too."""
    wanted = tag.strip().replace("-", "_").lower()
    by_name = {language.lower(): language for language in languages}
    if wanted in by_name:
        return by_name[wanted]
    root = wanted.partition("_")[0]
    return next((language for name, language in by_name.items() if name.partition("_")[0] == root), None)


def browser_tag(language: str) -> str:
    """As browsers spell it: zh-CN."""
    return language.replace("_", "-")


def _by_preference(accepted: str) -> list[str]:
    """The tags of an Accept-Language header, the best first."""
    weighted = []
    for part in accepted.split(","):
        tag, _, parameter = part.partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            weight = 0.0
        if tag.strip() and tag.strip() != "*" and weight > 0:
            weighted.append((weight, tag.strip()))
    return [tag for _, tag in sorted(weighted, key=lambda pair: -pair[0])]
