"""The documents say what the code does."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from service import errors
from service.manifest import ModelSpec
from service.settings import describe
from tests import forked
from tests.artifacts import SERVED
from tests.export import test_artifact
from tests.server import Server

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DOCUMENT = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
EVERYWHERE = ("400", "408", "414", "431", "500", "503")
SCHEMA = json.loads((ROOT / "docs/artifact.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_setting_has_its_line_in_operations() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    for flag, variable, default, text in describe():
        assert f"| `{flag}` | `{variable}` | `{default}` | {text} |\n" in page


def test_every_python_file_has_its_place_in_the_architecture() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/]+\.py|[\w]+/(?=`)", page))
    for package in ("service", "export"):
        for path in (ROOT / package).glob("*"):
            if path.name in {"__init__.py", "__pycache__"}:
                continue
            assert (path.name if path.is_file() else f"{path.name}/") in named, path


PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")


def test_every_code_of_an_error_is_in_the_protocols_table_and_no_other() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").rglob("*.py"))
    codes = set(re.findall(r'code="(\w+)"', source)) | set(re.findall(r'_weigh\(.*, "(\w+)"\)', source))
    codes |= {"loading", "draining", "closed", "dead"}  # the states in which nobody is served
    codes |= {"no_inputs", "no_outputs", "no_sizes"}  # inference_head.py: a list that is empty
    table = PROTOCOL.partition("| status |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)`", table)) - {"max_body_bytes"} == codes


def rows() -> dict[int, set[str]]:
    """The codes in each row of the protocol's table of errors; a row without a status goes on with the one before."""
    found: dict[int, set[str]] = {}
    statuses: list[int] = []
    for line in PROTOCOL.partition("| status |")[2].partition("\n\n")[0].splitlines()[2:]:
        _, status, _, codes, _ = line.split("|")
        statuses = [int(number) for number in re.findall(r"\d+", status)] or statuses
        for one in statuses:
            found.setdefault(one, set()).update(re.findall(r"`(\w+)`", codes))
    return found


def test_every_code_is_in_the_row_of_the_status_that_it_is_sent_with() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "service").rglob("*.py")]
    raised = [
        (getattr(errors, call.func.id).status, keyword.value.value)
        for tree in trees
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id.endswith("Error")
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    ]
    assert len(raised) > 80
    assert [(status, code) for status, code in raised if code not in rows()[status]] == []


def test_the_committed_document_is_the_servers_and_the_commands(server: Server, tmp_path: Path) -> None:
    committed = (ROOT / "docs/openapi.json").read_text(encoding="utf-8")
    assert forked.run(tmp_path, "openapi").stdout == committed, "make openapi"
    assert httpx.get(f"{server.url}/openapi.json").json() == json.loads(committed)


def test_every_status_of_an_error_is_in_the_document_and_in_the_protocol() -> None:
    operations = [one for methods in DOCUMENT["paths"].values() for one in methods.values()]
    statuses = {int(status) for operation in operations for status in operation["responses"]}
    tree = [error.status for error in vars(errors).values() if hasattr(error, "status")]
    no_operations = {405}  # a method that a path does not have
    assert statuses - {200} == set(rows()) - no_operations == set(tree) - no_operations
    assert all(set(EVERYWHERE) <= operation["responses"].keys() for operation in operations)


def test_every_route_of_the_document_is_in_the_protocol_or_in_operations() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    others = [path for path in DOCUMENT["paths"] if not path.startswith(("/v1", "/v2"))]
    assert others == [path for path in others if f"{path}`" in operations] == ["/livez", "/readyz", "/metrics"]


def test_every_route_of_v2_is_in_the_protocol() -> None:
    ours = [path for path in DOCUMENT["paths"] if path.startswith("/v2") and "/versions/" not in path]
    assert len(ours) > 12
    for path in ours:
        assert f"{path}`" in PROTOCOL or f"`/{path.rpartition('/')[2]}`" in PROTOCOL, path


def test_every_field_and_parameter_of_v2s_requests_and_answers_is_in_the_protocol() -> None:
    posts = [methods["post"] for path, methods in DOCUMENT["paths"].items() if "/v2" in path and "post" in methods]
    fields = {name for operation in posts for name in fields_of(operation)}
    assert {"id", "timeout", "binary_data_size", "binary_data", "model_version", "ready", "unload_dependents"} <= fields
    assert [name for name in fields if not re.search(rf"[`\".]{name}[`\"]", PROTOCOL)] == []


def test_every_route_and_field_of_v1_is_in_the_protocol() -> None:
    ours = [path for path in DOCUMENT["paths"] if path.startswith("/v1") and "/versions/" not in path]
    assert len(ours) == 3
    operation = DOCUMENT["paths"]["/v1/models/{model}/forward"]["post"]
    fields = fields_of(operation)
    assert {"hidden_states", "timeout_s", "priority", "tokens", "version"} <= fields
    named = {*ours, *operation["requestBody"]["content"], *fields - {"outputs"}, "sequence_lengths", "outputs.ADDRESS"}
    assert [name for name in named if f"{name}`" not in PROTOCOL] == []


def fields_of(operation: dict[str, Any]) -> set[str]:
    """Every field of the JSON that an operation reads and writes."""
    bodies = (operation["requestBody"], operation["responses"]["200"])
    return {name for body in bodies for name in names_of(body["content"]["application/json"]["schema"])}


def names_of(schema: dict[str, Any]) -> set[str]:
    """Every property of a schema and of the schemas in it."""
    own = schema.get("properties", {})
    inside = [*own.values(), *([schema["items"]] if "items" in schema else [])]
    return {*own, *(name for one in inside for name in names_of(one))}


@pytest.mark.parametrize(
    "name",
    [
        *SERVED,
        *(pytest.param(name, marks=pytest.mark.long) for name in ("minilm-2-5", *test_artifact.MORE)),
    ],
)
def test_a_manifest_is_valid_by_the_schema_and_read_by_the_service(artifact: Callable[[str], Path], name: str) -> None:
    data = (artifact(name) / "manifest.json").read_bytes()
    jsonschema.validate(json.loads(data), SCHEMA)
    assert ModelSpec.model_validate_json(data).name == name


def test_the_service_and_the_schema_know_the_same_fields() -> None:
    ours: dict[str, Any] = ModelSpec.model_json_schema()
    assert ours["properties"].keys() == SCHEMA["properties"].keys()
    assert sorted(ours["required"]) == sorted(SCHEMA["required"])
    for name, definition in (
        ("TextSpec", "text"),
        ("LimitsSpec", "limits"),
        ("SourceSpec", "source"),
        ("GoldenSpec", "golden"),
    ):
        assert ours["$defs"][name]["properties"].keys() == SCHEMA["properties"][definition]["properties"].keys()
    assert ours["$defs"]["TensorSpec"]["properties"].keys() == SCHEMA["$defs"]["tensor"]["properties"].keys()
    assert (
        ours["$defs"]["LayerSpec"]["properties"].keys() == SCHEMA["properties"]["layers"]["items"]["properties"].keys()
    )
    editable = SCHEMA["properties"]["layers"]["items"]["properties"]["editable"]
    assert ours["$defs"]["EditableSpec"]["properties"].keys() == editable["properties"].keys()
