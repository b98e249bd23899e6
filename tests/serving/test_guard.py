"""Who is let in: keys, names of the server, pages of browsers."""

from __future__ import annotations

import uuid

import pytest

from medsam2.errors import InputError
from medsam2.serving.settings import load_settings

KEY = "k3y-of-this-test"


@pytest.fixture(scope="module")
def guarded(run_server):
    """A server with a key, an allowed page and a name."""
    with run_server(
        api_key=KEY, allowed_origins="https://viewer.example", allowed_hosts="segment.example"
    ) as live:
        yield live


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", ["/score", "/invocations", "/metrics", "/openapi.json", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_key_there_is_nothing(guarded, path: str, method: str) -> None:
    response = guarded.client.request(method, path)
    assert response.status_code == 401
    assert response.json()["status"] == 401
    assert "Bearer" in response.json()["error"]
    assert response.headers["www-authenticate"] == "Bearer"
    for wrong in ("x", KEY[:-1], KEY + "x", KEY.upper(), "\xe9"):
        headers = {"Authorization": f"Bearer {wrong}".encode("latin-1")}
        assert guarded.client.request(method, path, headers=headers).status_code == 403
    assert guarded.client.request(method, path, headers={"Authorization": f"Basic {KEY}"}).status_code == 401


def test_with_the_key_a_mask_is_given(guarded, table) -> None:
    response = guarded.client.post("/score", json={"input_data": table}, headers=bearer(KEY))
    assert response.status_code == 200
    assert guarded.client.get("/metrics", headers={"Authorization": f"bearer {KEY}"}).status_code == 200


def test_probes_need_no_key(guarded) -> None:
    for path in ("/ping", "/healthz", "/readyz"):
        assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1234", 200),
        ("10.1.2.3:8000", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST:8000", 200),
        ("segment.example", 200),
        ("rebound.example", 403),
        ("segment.example.evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("[::1", 403),
        ("127.0.0.1@evil.example", 403),
    ],
)
def test_a_name_that_is_not_ours_is_refused(guarded, host: str, status: int) -> None:
    """A page may have its own name point to this machine; the browser then sends that name."""
    response = guarded.client.get("/metrics", headers={"Host": host, **bearer(KEY)})
    assert response.status_code == status
    if status == 403:
        assert "MEDSAM2_ALLOWED_HOSTS" in response.json()["error"]


def test_pages_of_others_are_refused(guarded, server) -> None:
    for origin in ("https://evil.example", "null", "https://viewer.example.evil.example", "http://[::1"):
        for live in (guarded, server):
            response = live.client.post("/score", content=b"{}", headers={"Origin": origin, **bearer(KEY)})
            assert response.status_code == 403
            assert "MEDSAM2_ALLOWED_ORIGINS" in response.json()["error"]
            assert "access-control-allow-origin" not in response.headers
    own = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert server.client.post("/score", content=b"{}", headers=own).status_code == 400


def test_an_allowed_page_may_ask_and_read(guarded) -> None:
    origin = {"Origin": "https://viewer.example"}
    asks = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = guarded.client.options("/score", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://viewer.example"
    answer = guarded.client.post("/score", content=b"{}", headers={**origin, **bearer(KEY)})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
    # Without the key a preflight is all there is.
    assert guarded.client.options("/score", headers=origin).status_code == 401


def test_answers_carry_an_id_and_are_not_kept(server) -> None:
    given = str(uuid.uuid4())
    response = server.client.get("/healthz", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == given
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    named = server.client.get("/healthz", headers={"X-Request-ID": "Roe^Jane"}).headers["x-request-id"]
    assert named != "Roe^Jane"
    assert uuid.UUID(named)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "server.example"])
def test_other_addresses_need_a_key_or_a_word(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSAM2_API_KEY", raising=False)
    for key in ({}, {"api_key": "  "}):
        with pytest.raises(InputError, match=r"MEDSAM2_API_KEY.*--insecure"):
            load_settings({"host": host, **key})
    assert load_settings({"host": host, "insecure": True}).key is None
    monkeypatch.setenv("MEDSAM2_API_KEY", KEY)
    settings = load_settings({"host": host})
    assert settings.key == KEY.encode()
    assert KEY not in repr(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert load_settings({"host": host}).key is None


def test_settings_come_from_the_environment_and_below_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_QUEUE", "3")
    monkeypatch.setenv("MEDSAM2_ALLOW_URLS", "a.example, B.example:8443")
    monkeypatch.setenv("MEDSAM2_PORT", "")
    settings = load_settings({})
    assert (settings.queue, settings.port) == (3, 8000)
    assert settings.allow_urls == ("a.example", "b.example:8443")
    assert load_settings({"queue": 5}).queue == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"queue": -1}, ("--queue", "MEDSAM2_QUEUE", "-1", "0")),
        ({"port": 70000}, ("--port", "70000", "65535")),
        ({"max_body": "much"}, ("--max-body", "integer", "'much'")),
        ({"allow_urls": ("*.example",)}, ("--allow-urls", "*.example")),
        ({"allowed_origins": "*"}, ("MEDSAM2_ALLOWED_ORIGINS", "*")),
        ({"answer_timeout_s": 0}, ("MEDSAM2_ANSWER_TIMEOUT_S", "0")),
        ({"nonsense": 1}, ("nonsense",)),
    ],
)
def test_a_setting_that_cannot_be_is_named(given: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        load_settings(given)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
