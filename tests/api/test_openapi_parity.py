"""Our OpenAPI document against A1111's recorded one: paths, parameters, fields, types and defaults.

Nothing of A1111's may be missing but what a table below names, with the reason. A difference that no longer exists
fails too, so that the tables stay true. More than A1111 has is fine.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from sdwebui_api.api import response_schema
from sdwebui_api.api.factory import create_app
from tests.support.fakes import GOLDEN, fake_services

ANYTHING = object()

NOT_BUILT: dict[str, str] = {}
"""Path of A1111's that is not here: why. Empty: everything is here."""

DIFFERENT_ON_PURPOSE: dict[str, str] = {
    "Options.profiling_explanation": "a text of A1111's page",
    "Options.sd_vae_explanation": "a text of A1111's page",
    "Options.infotext_explanation": "a text of A1111's page",
    "Options.settings_in_ui": "a text of A1111's page",
}
"""`Schema.field` of A1111's that is not here."""

OTHER_DEFAULT: dict[str, str] = {}
"""`Schema.field` whose default is not A1111's."""


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` itself, behind its `$ref` or the one model of an optional."""
    while "$ref" in schema or len(schema.get("allOf", ())) == 1:
        if "allOf" in schema:
            schema = schema["allOf"][0]
            continue
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return resolved(document, options[0]) if len(options) == 1 else schema


def types(document: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Every JSON type that is accepted; empty for anything."""
    if "$ref" in schema:
        return types(document, resolved(document, schema))
    parts = [*schema.get("anyOf", ()), *schema.get("allOf", ())]
    found = {kind for part in parts for kind in types(document, part)} - {"null"}
    found |= {schema["type"]} - {"null"} if isinstance(schema.get("type"), str) else set()
    return found | {"integer"} if "number" in found else found


def content(part: dict[str, Any]) -> dict[str, Any]:
    return part.get("content", {}).get("application/json", {}).get("schema", {})


def name_of(schema: dict[str, Any]) -> str:
    return schema.get("items", schema).get("$ref", "").rpartition("/")[2]


class Comparison:
    """Walks A1111's document and notes what ours has not."""

    def __init__(self, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        self.theirs, self.ours = theirs, ours
        self.problems: list[str] = []
        self.missing_paths: set[str] = set()
        self.missing_fields: set[str] = set()
        self.other_defaults: set[str] = set()

    def run(self) -> Comparison:
        for path, methods in self.theirs["paths"].items():
            for method, operation in methods.items():
                ours = self.ours["paths"].get(path, {}).get(method)
                if ours is None:
                    self.missing_paths.add(path)
                else:
                    self.operation(f"{method.upper()} {path}", operation, ours)
        return self

    def operation(self, where: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        known = {parameter["name"]: parameter for parameter in ours.get("parameters", ())}
        for parameter in theirs.get("parameters", ()):
            mine = known.get(parameter["name"])
            if mine is None:
                self.problems.append(f"{where}: no parameter {parameter['name']}")
            else:
                self.field(f"{where}?{parameter['name']}", parameter["schema"], mine["schema"])
        if (body := content(theirs.get("requestBody", {}))) and name_of(body):
            mine = content(ours.get("requestBody", {}))
            if name_of(mine) != name_of(body):
                self.problems.append(f"{where}: the request is {name_of(mine)!r}, there {name_of(body)!r}")
            self.model(name_of(body), body, mine, request=True)
        answer = content(theirs["responses"].get("200", {}))
        if name_of(answer):
            mine = content(ours["responses"].get("200", {}))
            if name_of(mine) != name_of(answer) or ("items" in mine) != ("items" in answer):
                self.problems.append(f"{where}: the answer is {name_of(mine)!r}, there {name_of(answer)!r}")
                return
            self.model(name_of(answer), answer.get("items", answer), mine.get("items", mine), request=False)

    def model(self, name: str, theirs: dict[str, Any], ours: dict[str, Any], *, request: bool) -> None:
        theirs, ours = resolved(self.theirs, theirs), resolved(self.ours, ours)
        extra = set(ours.get("required", ())) - set(theirs.get("required", ()))
        if request and extra:
            self.problems.append(f"{name}: {sorted(extra)} are required")
        for field, schema in theirs.get("properties", {}).items():
            mine = ours.get("properties", {}).get(field)
            if mine is None:
                self.missing_fields.add(f"{name}.{field}")
                continue
            self.field(f"{name}.{field}", schema, mine)
            for part in ("items", "additionalProperties"):
                inner = schema.get(part)
                if isinstance(inner, dict) and "$ref" in inner:
                    mine_inner = resolved(self.ours, mine).get(part, {})
                    self.model(f"{name}.{field}", inner, mine_inner, request=request)

    def field(self, where: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        wanted, accepted = types(self.theirs, theirs), types(self.ours, ours)
        if accepted and wanted and not wanted & accepted:
            self.problems.append(f"{where}: {sorted(accepted)} instead of {sorted(wanted)}")
        if "default" in theirs and theirs["default"] != ours.get("default", ANYTHING):
            self.other_defaults.add(where)


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    app = create_app(fake_services(tmp_path_factory.mktemp("openapi")))
    return json.loads((GOLDEN / "api" / "openapi.json").read_text()), app.openapi()


@pytest.fixture(scope="module")
def comparison(documents) -> Comparison:
    return Comparison(*documents).run()


def _without_flags(names: set[str]) -> set[str]:
    """The command line is each program's own: A1111's flags are all here, their defaults are folders of a machine."""
    return {name for name in names if not name.startswith("Flags.")}


def test_every_path_is_here(comparison):
    assert comparison.missing_paths == set(NOT_BUILT)


def test_every_field_is_here(comparison):
    assert comparison.missing_fields == set(DIFFERENT_ON_PURPOSE)


def test_every_default_is_the_same(comparison):
    assert _without_flags(comparison.other_defaults) == set(OTHER_DEFAULT)


def test_types_parameters_and_schema_names_agree(comparison):
    assert comparison.problems == []


def test_schemas_that_both_have_are_named_alike(documents):
    theirs, ours = (document["components"]["schemas"] for document in documents)
    used = {name for name in theirs if name in json.dumps(documents[0]["paths"])}
    built = {
        name
        for path, methods in documents[0]["paths"].items()
        if path not in NOT_BUILT
        for name in used
        if f'"#/components/schemas/{name}"' in json.dumps(methods)
    }
    assert built <= set(ours)


ANSWERED_WITHOUT_A_BODY = (
    "cmd-flags", "samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-models", "sd-vae", "hypernetworks",
    "face-restorers", "realesrgan-models", "prompt-styles", "embeddings", "memory", "scripts", "script-info",
    "extensions", "progress", "options",
)  # fmt: skip


@pytest.mark.parametrize("name", ANSWERED_WITHOUT_A_BODY)
def test_real_answers_fit_the_declared_models(name, tmp_path):
    """The models only describe, so nothing but this holds the routes to them. No field goes undeclared."""
    app = create_app(fake_services(tmp_path))
    path = f"/sdapi/v1/{name}"
    declared = content(app.openapi()["paths"][path]["get"]["responses"]["200"])
    model = getattr(response_schema, name_of(declared))
    adapter = TypeAdapter(list[model] if "items" in declared else model)
    answer = TestClient(app).get(path).json()
    parsed = adapter.dump_python(adapter.validate_python(answer), mode="json")
    assert _keys(parsed) >= _keys(answer)


def _keys(value: Any) -> set[str]:
    rows = value if isinstance(value, list) else [value]
    return {key for row in rows for key in row}
