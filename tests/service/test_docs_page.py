"""The API's document and its page, which loads nothing from elsewhere."""

import re

import httpx
import pytest

ASSET = re.compile(r'(?:src|href)="([^"]+)"')


def test_the_page_names_only_assets_of_this_server_and_each_is_there(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text.replace("<!doctype", "")
    assets = [name for name in ASSET.findall(page.text) if not name.startswith("data:")]
    assert len(assets) == 3
    for name in assets:
        asset = client.get(f"/{name}")
        assert asset.status_code == httpx.codes.OK
        assert asset.headers["content-type"].startswith(("text/javascript", "text/css"))
        assert asset.headers["x-content-type-options"] == "nosniff"


def test_the_pages_own_script_names_no_other_server(client: httpx.Client) -> None:
    assert "http" not in client.get("/static/docs.js").text


def test_the_pages_policy_lets_nothing_be_loaded_from_elsewhere(client: httpx.Client) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'self'"
    sources = {source for value in directives.values() for source in value.split()}
    assert sources <= {"'self'", "'none'", "data:", "'unsafe-inline'"}
    assert "'unsafe-inline'" not in directives.get("script-src", directives["default-src"])


def test_the_page_holds_no_script_of_its_own(client: httpx.Client) -> None:
    assert re.findall(r"<script(?! src=)", client.get("/docs").text) == []


def test_the_document_describes_every_route_of_v1(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described >= {
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/v1/models/{model}/versions/{version}"),
        ("post", "/v1/models/{model}/forward"),
        ("post", "/v1/models/{model}/versions/{version}/forward"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


def operations(document: dict[str, dict[str, dict[str, dict[str, object]]]]) -> list[dict[str, object]]:
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def test_every_operation_has_a_summary_an_own_id_and_answers(client: httpx.Client) -> None:
    found = operations(client.get("/openapi.json").json())
    ids = [operation["operationId"] for operation in found]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["responses"] for operation in found)


@pytest.mark.parametrize("route", ["/v1/models/{model}/forward", "/v1/models/{model}/versions/{version}/forward"])
def test_the_forward_routes_schemas_are_valid_and_hold_of_a_real_request_and_answer(
    client: httpx.Client, route: str
) -> None:
    import jsonschema

    document = client.get("/openapi.json").json()
    operation = document["paths"][route]["post"]
    request_schema = operation["requestBody"]["content"]["application/json"]["schema"]
    answer_schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("schemas/Refusal")
    error_schema = document["components"]["schemas"]["Refusal"]
    for schema in (request_schema, answer_schema, error_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
    body = {"hidden_states": [[[0.5] * 8] * 2], "attention_mask": [[1, 0]], "outputs": ["attention_weights"]}
    jsonschema.validate(body, request_schema)
    url = route.format(model="tiny", version="1")
    jsonschema.validate(client.post(url, json=body).json(), answer_schema)
    jsonschema.validate(client.post(url, json={}).json(), error_schema)


@pytest.mark.parametrize("route", ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"])
def test_the_infer_routes_schemas_are_valid_and_hold_of_a_real_request_and_answer(
    client: httpx.Client, route: str
) -> None:
    import jsonschema

    operation = client.get("/openapi.json").json()["paths"][route]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    answer_schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    for schema in (content["schema"], answer_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
    body = content["examples"]["hidden_states"]["value"]
    jsonschema.validate(body, content["schema"])
    answer = client.post(route.format(model="tiny", version="1"), json=body)
    assert answer.status_code == httpx.codes.OK
    jsonschema.validate(answer.json(), answer_schema)


def test_the_documents_own_examples_are_answered(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/models/{model}/forward"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    for name, model in (("text", "minilm"), ("hidden_states", "tiny")):
        assert client.post(f"/v1/models/{model}/forward", json=examples[name]["value"]).status_code == httpx.codes.OK
