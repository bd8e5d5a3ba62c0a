"""The documents say what the code does."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from service.manifest import ModelSpec
from service.settings import describe
from tests.server import Server

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
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


def test_every_route_of_v2_is_in_the_protocol(server: Server) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    ours = [path for path in paths if path.startswith("/v2") and "/versions/" not in path]
    assert len(ours) > 12
    for path in ours:
        assert f"{path}`" in PROTOCOL or f"`/{path.rpartition('/')[2]}`" in PROTOCOL, path


def test_every_field_and_parameter_of_infer_is_in_the_protocol(server: Server) -> None:
    operation = httpx.get(f"{server.url}/openapi.json").json()["paths"]["/v2/models/{model}/infer"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    fields = names_of(schema)
    assert {"id", "timeout", "binary_data_size", "binary_data"} <= fields
    assert [name for name in fields if name not in PROTOCOL] == []


def test_every_route_and_field_of_v1_is_in_the_protocol(server: Server) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    ours = [path for path in paths if path.startswith("/v1") and "/versions/" not in path]
    assert len(ours) == 3
    content = paths["/v1/models/{model}/forward"]["post"]["requestBody"]["content"]
    named = {*ours, *content, *names_of(content["application/json"]["schema"]), "sequence_lengths"}
    assert [name for name in named if f"{name}`" not in PROTOCOL] == []


def names_of(schema: dict[str, Any]) -> set[str]:
    """Every property of a schema and of the schemas in it."""
    own = schema.get("properties", {})
    inside = [*own.values(), *([schema["items"]] if "items" in schema else [])]
    return {*own, *(name for one in inside for name in names_of(one))}


@pytest.mark.parametrize("name", ["minilm", "minilm-2-5", "my-block", "causal-final-norm", "encoder-post-relu", "tiny"])
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
