from __future__ import annotations

import pytest

from service.api.accept import quality

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "application/json", "application/json, text/html", "text/html;q=0, */*",
     "text/html;q=0.4, application/json;q=0.5", "image/png", "", "text/html;q=x", "a;b=c;;,,"],
)  # fmt: skip
def test_clients_hear_that_it_is_alive(client, accept):
    answer = client.get("/", headers={} if accept is None else {"Accept": accept})
    assert answer.status_code == 200
    assert answer.json() == {"status": "alive"}
    assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    "accept", [BROWSER, "text/html", "TEXT/HTML", "text/*", "application/json;q=0.9, text/html"]
)
def test_browsers_get_a_page_whose_links_lead_somewhere(client, accept):
    answer = client.get("/", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    links = [part.split('"')[0] for part in answer.text.split('href="')[1:]]
    assert {"v1/models", "docs"} <= set(links)
    for link in links:
        assert client.get(f"/{link}").status_code == 200, link


@pytest.mark.parametrize("accept", ["*/*", BROWSER])
def test_head(client, accept):
    got = client.get("/", headers={"Accept": accept})
    asked = client.head("/", headers={"Accept": accept})
    assert asked.status_code == 200
    assert asked.content == b""
    for name in ("content-type", "content-length"):
        assert asked.headers[name] == got.headers[name]


def test_a_hostile_host_name_is_only_text(client):
    headers = {"Accept": "text/html", "Host": "x<script>alert(1)</script>"}
    assert "<script>" not in client.get("/", headers=headers).text


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", 1.0),
        ("*/*", 1.0),
        ("*/*;q=0.2, text/*;q=0.3", 0.3),
        ("*/*;q=0.2, text/html ; Q=0.25, text/*", 0.25),
        ("text/html;q=0.123", 0.123),
        ("text/html;level=1;q=0.5", 0.5),
        ("text/html;q=2", 0.0),
        ("text/html;q=nan", 0.0),
        ("text/plain", 0.0),
    ],
)
def test_quality(accept, expected):
    assert quality(accept, "text/html") == expected
