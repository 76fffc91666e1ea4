"""What is wrong with a body that is no JSON, said so that the writer of Python or JavaScript finds the place."""

from __future__ import annotations

import re

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_WORD = re.compile(r"True|False|None|NaN|undefined")
_COMMENTS = ("#", "//", "/*")


def json_problem(document: str, position: int, reason: str) -> str:
    """One line: `reason` (the decoder's), where, and what to write instead where that is clear."""
    line = document.count("\n", 0, position) + 1
    column = position - document.rfind("\n", 0, position)
    hint = _hint(document, position)
    return f"JSON decode error: {reason}, line {line} column {column}" + (f": {hint}" if hint else "")


def _hint(document: str, position: int) -> str:
    rest = document[position:].lstrip()
    if word := _WORD.match(rest):
        wanted = _PYTHON.get(word[0], "null")
        return f"{word[0]} is not JSON, write {wanted} (Python: send json.dumps(body), or requests.post(…, json=body))"
    if rest.startswith(_COMMENTS):
        return "JSON has no comments, leave them out"
    if rest.startswith("'"):
        return 'JSON puts texts and names between double quotes ("), not single ones'
    if _after_comma(document, position, rest):
        return "JSON allows no comma before } and ]"
    return ""


def _after_comma(document: str, position: int, rest: str) -> bool:
    """Newer Pythons name the comma's place, older ones that of the bracket."""
    if rest.startswith(","):
        return rest[1:].lstrip().startswith(("}", "]"))
    return rest.startswith(("}", "]")) and document[:position].rstrip().endswith(",")
