from __future__ import annotations

import json
import logging
import sys

import pytest

from service.logs import REQUEST, JsonFormatter, TextFormatter

ACCESS = ("GET", "/a", 200, 1.5, "id7", None, "4bf92f3577b34da6a3ce929d0e0e4736")


def record(text: str, *args: object, name: str = "service.x") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, text, args, None)


@pytest.fixture
def in_request():
    token = REQUEST.set({"request_id": "id7", "trace_id": None})
    yield
    REQUEST.reset(token)


def test_a_json_line_says_what_when_and_by_whom():
    found = json.loads(JsonFormatter().format(record("%d of %s\n", 2, "ü")))
    assert found.pop("time").endswith("+00:00")
    assert found.pop("process") > 0
    assert found == {"level": "warning", "logger": "service.x", "message": "2 of ü"}


def test_lines_of_a_request_have_its_id(in_request):
    found = json.loads(JsonFormatter().format(record("full")))
    assert found["request_id"] == "id7"
    assert "trace_id" not in found
    assert TextFormatter("%(message)s").format(record("full\n")) == "full (request id7)"


def test_an_access_line_has_its_parts_as_fields():
    line = record("%s %s", "GET", "/a", name="service.access")
    line.access = ACCESS
    found = json.loads(JsonFormatter().format(line))
    assert found["message"] == "GET /a"
    names = ("method", "path", "status", "duration_ms", "request_id", "trace_id")
    assert tuple(found[name] for name in names) == (*ACCESS[:5], ACCESS[6])
    assert "caller" not in found


def test_an_exception_stays_in_its_line():
    try:
        raise ValueError("bad")
    except ValueError:
        line = logging.LogRecord("x", logging.ERROR, "", 0, "oops", (), sys.exc_info())
    text = JsonFormatter().format(line)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: bad")
    assert "Traceback" in TextFormatter("%(message)s").format(line)


def test_what_json_can_not_say_is_written_somehow():
    for value in ("\udcff", "a\nb\x1b\x00", b"\xff", object()):
        text = JsonFormatter().format(record("%s", value))
        assert "\n" not in text
        assert "message" in json.loads(text)
