"""HTTP beside the answers: headers, limits, keys, health, metrics, the OpenAPI document, tokenizing."""

import re
from typing import Any

import httpx
import pytest

from router.api.health import PUBLIC_PATHS
from router.auth import KeyRing
from router.backend import ComponentProgress, Readiness
from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER, running
from tests.router.fakes.scripts import answer

KEY = {"authorization": "Bearer secret-1"}


@pytest.fixture(scope="module")
def client() -> AsgiClient:
    return AsgiClient(HandBackend(answer("A")))


def routes_of(client: AsgiClient) -> list[tuple[str, str]]:
    """Return every (method, path) that the application answers, whether or not its document names it."""
    # Newer frameworks keep an included router as one route, older ones unpack it.
    routes: list[Any] = [
        one
        for route in client.app.routes
        for one in getattr(getattr(route, "original_router", None), "routes", [route])
    ]
    return [(method, route.path.replace(":path", "")) for route in routes for method in sorted(route.methods)]


def test_unknown_fields_are_named_and_the_request_is_served(client: AsgiClient) -> None:
    response = client.chat(
        mystery=1, messages=[{"role": "user", "content": [{"type": "text", "text": "Hi", "cache": 1}], "x-é": 2}],
        tools=[{"type": "web_search"}, {"type": "namespace", "name": "n"}],
    )  # fmt: skip

    assert response.status_code == 200
    named = response.headers["x-expertmesh-ignored-fields"].split(", ")
    assert set(named) == {
        "mystery", "messages[0].x-?", "messages[0].content[0].cache", "tools[0]", "tools[1]", "tools[1].name"
    }  # fmt: skip


def test_a_field_may_be_named_anything() -> None:
    """No header may begin or end with a space: a server that sent such a one would break its connection."""
    with running(HandBackend(answer("A"))) as server, httpx.Client(trust_env=False) as one:
        for names in (["a", ""], ["", " "], [" ", "a "], ["x" * 1998, "b"], ["\t\n"]):
            body = {"messages": HI, **dict.fromkeys(names, 1)}
            response = one.post(f"{server.url}/v1/chat/completions", json=body)
            assert response.status_code == 200
            named = response.headers.get("x-expertmesh-ignored-fields", "")
            assert named == named.strip()


def test_nothing_is_named_where_everything_is_read(client: AsgiClient) -> None:
    assert "x-expertmesh-ignored-fields" not in client.chat(user="me", metadata={"a": "b"}, model="hand").headers
    assert "x-expertmesh-notes" not in client.chat(reasoning_effort="low").headers


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reasoning_effort": "none"}, "none is served as low"),
        ({"reasoning_effort": "minimal"}, "minimal is served as low"),
        ({"reasoning_effort": "xhigh"}, "xhigh is served as high"),
        ({"reasoning_effort": "max"}, "max is served as high"),
        ({"store": True}, "not stored"),
    ],
)  # fmt: skip
def test_what_is_understood_otherwise_is_said(client: AsgiClient, fields: dict[str, Any], said: str) -> None:
    response = client.chat(**fields)

    assert response.status_code == 200
    assert said in response.headers["x-expertmesh-notes"]


def test_what_leaves_nothing_to_a_choice_needs_no_word(client: AsgiClient) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]

    assert "x-expertmesh-notes" not in client.chat(tools=tools, tool_choice="required").headers


def test_the_seed_is_told_and_gives_the_request_again(client: AsgiClient) -> None:
    response = client.chat()

    assert response.headers["x-expertmesh-seed"] == str(response.json()["seed"])
    assert client.chat(seed=12).headers["x-expertmesh-seed"] == "12"


def test_reasoning_can_be_left_out(client: AsgiClient) -> None:
    message = client.chat(reasoning={"exclude": True, "effort": "low"}).json()["choices"][0]["message"]

    assert message == {"role": "assistant", "content": "A"}


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/v1/chat/completions"])
def test_a_request_id_goes_out_as_it_came_in(client: AsgiClient, path: str) -> None:
    given = client.request("GET", path, headers={"x-request-id": "mine-1"})
    wild = client.request("GET", path, headers={"x-request-id": "x" * 500})
    made = client.request("GET", path)

    assert given.headers["x-request-id"] == "mine-1"
    assert wild.headers["x-request-id"] != "x" * 500
    assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])


def test_every_route_but_health_needs_a_key() -> None:
    client = AsgiClient(HandBackend(answer("A")), keys=KeyRing(["secret-1", "secret-2"]))
    routes = routes_of(client)
    assert len({path for _, path in routes}) == 25

    for method, path in [*routes, ("GET", "/nowhere"), ("GET", "/docs")]:
        response = client.request(method, path)
        assert (response.status_code == 401) == (path not in PUBLIC_PATHS), (method, path)
        if path not in PUBLIC_PATHS and method != "HEAD":
            assert "key" in str(response.json()["error"])
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong",
        "Bearer ",
        "Bearer secret-1x",
        "Bearer secret-",
        "Basic secret-1",
        "secret-1",
        "bearer  secret-2 x",
        "",
    ],
)
def test_a_wrong_key_is_no_key(authorization: str) -> None:
    client = AsgiClient(HandBackend(answer("A")), keys=KeyRing(["secret-1", "secret-2"]))

    assert client.request("GET", "/v1/models", headers={"authorization": authorization}).status_code == 401


@pytest.mark.parametrize("authorization", ["Bearer secret-1", "bearer secret-2", "Bearer  secret-1 "])
def test_each_key_opens_every_route(authorization: str) -> None:
    client = AsgiClient(HandBackend(answer("A")), keys=KeyRing(["secret-1", "secret-2"]))

    for method, path in routes_of(client):
        assert client.request(method, path, headers={"authorization": authorization}).status_code != 401


def test_each_key_has_computed_prefixes_of_its_own() -> None:
    backend = HandBackend(answer("A"))
    client = AsgiClient(backend, keys=KeyRing(["secret-1", "secret-2"]))
    question = {"messages": [{"role": "user", "content": "Hi"}]}
    for key in ("secret-1", "secret-2", "secret-1"):
        client.request("POST", "/v1/chat/completions", json=question, headers={"authorization": f"Bearer {key}"})
    first, second, third = (request.cache_salt for request in backend.requests)
    assert first == third != second
    assert first
    open_backend = HandBackend(answer("A"))
    AsgiClient(open_backend).request("POST", "/v1/chat/completions", json=question)
    assert open_backend.requests[0].cache_salt == ""


def test_a_large_body_is_refused_before_it_is_read_or_while_it_is() -> None:
    client = AsgiClient(HandBackend(answer("A")), http={"max_body_bytes": 1000})
    large = {"messages": [{"role": "user", "content": "x" * 2000}]}

    told = client.request("POST", "/v1/chat/completions", json=large)
    # Without a length the limit holds while the body comes in.
    lied = client.request("POST", "/v1/chat/completions", json=large, headers={"content-length": "10"})

    assert (told.status_code, lied.status_code) == (413, 413)
    assert told.json()["error"]["code"] == "request_too_large"
    assert client.chat().status_code == 200


def test_large_headers_are_refused(client: AsgiClient) -> None:
    response = client.request("GET", "/health", headers={"x-large": "x" * 40_000})

    assert response.status_code == 431
    assert response.json()["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"host": "[bad"},
        {"origin": "http://[::1"},
    ],
)
def test_without_keys_strangers_web_pages_are_refused(client: AsgiClient, headers: dict[str, str]) -> None:
    assert client.request("POST", "/v1/chat/completions", json={"messages": HI}, headers=headers).status_code == 403
    assert client.request("GET", "/health", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "127.0.0.5:1"])
def test_without_keys_loopback_is_served_by_any_of_its_names(client: AsgiClient, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}

    assert client.request("POST", "/v1/chat/completions", json={"messages": HI}, headers=headers).status_code == 200


def test_cors_is_closed() -> None:
    client = AsgiClient(HandBackend(answer("A")), keys=KeyRing(["secret-1"]))
    headers = {"origin": "https://page.example", **KEY}

    response = client.request("POST", "/v1/chat/completions", json={"messages": HI}, headers=headers)

    assert not [name for name in response.headers if name.startswith("access-control")]


def test_ready_tells_what_loads_and_how_far_it_is() -> None:
    part = ComponentProgress("worker-1", "loading experts", 0.5)
    loading = Readiness(False, "loading experts", 0.4, "worker-1", kernel_backend="torch", components=(part,))
    backend = HandBackend(readiness=loading)
    client = AsgiClient(backend)

    response = client.request("GET", "/ready")
    assert response.status_code == 503
    answered = response.json()
    assert (answered["ready"], answered["stage"], answered["progress"]) == (False, "loading experts", 0.4)
    assert answered["kernel_backend"] == "torch"
    assert answered["components"][0]["name"] == "worker-1"

    refused = client.chat()
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "not_ready"

    backend.readiness = HandBackend().readiness
    assert client.request("GET", "/ready").status_code == 200
    assert client.request("GET", "/health").json() == {"status": "ok"}


DETAILED = Readiness(
    is_ready=False,
    stage="loading experts",
    progress=0.4,
    detail="worker-1: OSError: /data/model",
    components=(ComponentProgress("worker-1", "loading experts", 0.5, detail="10.1.2.3:7100 on node abc"),),
)


@pytest.mark.parametrize(
    ("keys", "headers", "is_trusted"),
    [
        (["secret-1"], {}, False),
        (["secret-1"], {"authorization": "Bearer wrong"}, False),
        (["secret-1"], KEY, True),
        ([], {}, True),
        ([], {"host": "evil.example"}, False),
        ([], {"origin": "https://evil.example"}, False),
    ],
    ids=["no key", "wrong key", "key", "loopback", "rebound name", "web page"],
)
def test_ready_names_the_inside_only_to_those_who_may_see_it(
    keys: list[str], headers: dict[str, str], is_trusted: bool
) -> None:
    response = AsgiClient(HandBackend(readiness=DETAILED), keys=KeyRing(keys)).request("GET", "/ready", headers=headers)

    assert response.status_code == 503
    if is_trusted:
        assert response.json()["detail"] == DETAILED.detail
        assert response.json()["components"][0]["detail"] == "10.1.2.3:7100 on node abc"
    else:
        assert response.json() == {"ready": False, "stage": "loading experts", "progress": 0.4}


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/hand", "/metrics", "/openapi.json"])
def test_head_is_get_without_the_body(client: AsgiClient, path: str) -> None:
    head, get = client.request("HEAD", path), client.request("GET", path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_what_takes_post_only_is_refused(client: AsgiClient) -> None:
    refused = client.request("HEAD", "/v1/chat/completions")

    assert (refused.status_code, refused.content, refused.headers["allow"]) == (405, b"", "POST")


def test_head_over_a_connection_leaves_it_usable() -> None:
    """A body after the answer to a HEAD would be read as the next answer."""
    with running(HandBackend()) as server, httpx.Client(base_url=server.url, trust_env=False) as connection:
        for _ in range(2):
            assert connection.head("/ready").status_code == 200
            assert connection.get("/health").json() == {"status": "ok"}


def test_metrics_count_what_happened() -> None:
    client = AsgiClient(HandBackend(answer("Hello there", reasoning="Hm hm."), num_cached=3))
    client.chat()
    client.chat(n=99)
    client.chat(model="gpt-4")

    response = client.request("GET", "/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    lines = set(response.text.splitlines())
    assert 'expertmesh_requests_total{endpoint="chat",outcome="ok",status="200"} 1.0' in lines
    assert "expertmesh_requests_running 0.0" in lines
    assert "expertmesh_time_to_first_token_seconds_count 1.0" in lines
    assert f"expertmesh_completion_tokens_total {float(len(answer('Hello there', reasoning='Hm hm.')))}" in lines
    assert f"expertmesh_reasoning_tokens_total {float(len(TOKENIZER.encode('Hm hm.')))}" in lines
    assert "expertmesh_cached_prompt_tokens_total 3.0" in lines
    assert 'expertmesh_engine_sequences{state="waiting"} 2.0' in lines
    assert 'expertmesh_engine_kv_blocks{state="free"} 4.0' in lines
    assert 'expertmesh_engine_draft_tokens{outcome="rejected"} 2.0' in lines


def test_metric_names_are_clean(client: AsgiClient) -> None:
    """As promtool asks: our prefix, base units, counters that end in _total, a help text for each."""
    text = client.request("GET", "/metrics").text
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)

    assert len(families) >= 10
    for name, kind in families:
        assert re.fullmatch(r"expertmesh_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert f"# HELP {name} " in text
        assert kind != "histogram" or name.endswith("_seconds")


def test_the_openapi_document_describes_every_route(client: AsgiClient) -> None:
    document = client.request("GET", "/openapi.json").json()

    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {path for _, path in routes_of(client)} - {"/openapi.json"}
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= set(document["components"]["schemas"])
    assert "text/plain" in document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert "text/event-stream" in document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]


def test_tokenize_and_detokenize_are_inverse(client: AsgiClient) -> None:
    text = "Grüße 😀 <|end|>"

    answered = client.request("POST", "/tokenize", json={"prompt": text, "return_token_strs": True}).json()

    assert answered["tokens"] == TOKENIZER.encode(text)
    assert answered["count"] == len(answered["tokens"]) == len(answered["token_strs"])
    assert answered["max_model_len"] == client.request("GET", "/v1/models").json()["data"][0]["max_model_len"] == 3072
    back = client.request("POST", "/detokenize", json={"tokens": answered["tokens"]}).json()
    assert back == {"prompt": text}


def test_what_ends_a_text_is_told_as_harnesses_ask_for_it(client: AsgiClient) -> None:
    answered = client.request("GET", "/tokenizer_info").json()

    assert answered == {"bos_token": None, "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}


def test_tokenize_shows_the_prompt_of_a_chat(client: AsgiClient) -> None:
    backend = HandBackend(answer("A"))
    served = AsgiClient(backend)
    body = {"messages": HI, "reasoning_effort": "high"}
    served.chat(**body)

    answered = client.request("POST", "/tokenize", json=body).json()

    assert tuple(answered["tokens"]) == backend.requests[0].prompt_ids


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": HI}, {"tokens": [1]}])
def test_tokenize_wants_one_thing(client: AsgiClient, body: dict[str, Any]) -> None:
    assert client.request("POST", "/tokenize", json=body).status_code == 400
