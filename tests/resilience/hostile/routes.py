"""Addresses, methods, queries and headers of well-formed requests."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator

from tests.resilience.hostile.crafted import good_files, many_zeros
from tests.resilience.hostile.inputs import (
    BROKEN,
    CLASSIFY,
    HARMLESS,
    Input,
    head,
    post,
    raw,
)

_NOWHERE = frozenset({404})
_WRONG_METHOD = frozenset({405})
_WRONG_PARAMETER = frozenset({422})
_WRONG_TYPE = frozenset({415})

# Names that no model has, as they stand in an address.
PATHS = {
    "..": "..",
    "../.. in clear": "../../../../etc/passwd",
    "../.. in percents": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "../.. in two percents": "%252e%252e%252fetc%252fpasswd",
    "..\\..": "..%5c..%5cwindows",
    "an absolute path": "%2fetc%2fpasswd",
    "NUL": "identities%00",
    "NUL and more": "identities%00.onnx",
    "a line end": "identities%0d%0aSet-Cookie:%20a=b",
    "50,000 letters": "a" * 50_000,
    "a right-to-left mark": "identities%e2%80%ae",
    "a letter that looks like another": "%d1%96dentities",
    "UTF-8 that is too long": "%c0%ae%c0%ae",
    "broken UTF-8": "%ff%fe",
    "broken percents": "%zz",
    "a lone percent": "identities%",
    "a star": "*",
    "an SQL injection": "'%20OR%20'1'='1",
    "a template": "{{7*7}}",
    "a command": "$(id)",
    "capital letters": "IDENTITIES",
    "a space at its end": "identities%20",
}


def routes() -> Iterator[Input]:
    """All of them."""
    return itertools.chain(_paths(), _methods(), _queries(), _types(), _compressed(), _headers())


def _paths() -> Iterator[Input]:
    for name, text in PATHS.items():
        yield raw(
            "path",
            f"GET /v1/models/ with {name}",
            "there is no such model",
            head(f"/v1/models/{text}", method=b"GET"),
            expected=_NOWHERE,
        )
    for name, target in {
        "a route that is none": "/v1/nothing",
        "the files of the server": "/../../../../etc/passwd",
        "the files of the server in percents": "/%2e%2e/%2e%2e/etc/passwd",
        "the files of the docs": "/docs/../../../etc/passwd",
        "many slashes": "/" * 1000,
        "a slash behind a route": "/v1/classify/",
        "two slashes in a route": "/v1//classify",
        "capital letters": "/V1/CLASSIFY",
        "a dot in a route": "/v1/./models",
        "the environment": "/.env",
        "git": "/.git/config",
        "PHP": "/index.php?s=/Index/think/app/invokefunction",
        "an admin page": "/admin",
        "a debugger": "/console",
        "another route's metrics": "/metrics/../../",
    }.items():
        yield raw(
            "path",
            f"GET {name}",
            "there is no such route",
            head(target, method=b"GET"),
            expected=_NOWHERE,
        )
    yield raw(
        "path",
        "GET letters outside of ASCII",
        "RFC 9112, 3.2: they are to be written in percents",
        head("/v1/\xc3\xa9", method=b"GET"),
    )
    yield raw(
        "path",
        "an absolute address of another host",
        "the path counts; the service answers for every host",
        head("http://169.254.169.254/v1/models", method=b"GET"),
        expected=HARMLESS | _NOWHERE,
    )
    yield raw(
        "path",
        "a fragment in the address",
        "RFC 9112, 3.2: clients don't send it; it is ignored or refused",
        head("/healthz#a", method=b"GET"),
        expected=HARMLESS | BROKEN | _NOWHERE,
    )


def _methods() -> Iterator[Input]:
    for method, target in (
        *((method, CLASSIFY) for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS")),
        *((method, "/v1/models") for method in ("POST", "PUT", "DELETE", "PROPFIND")),
        *((method, "/healthz") for method in ("POST", "DELETE", "LOCK")),
        *((method, "/metrics") for method in ("POST", "PURGE")),
        ("GET", "/v2/models/identities/infer"),
        ("DELETE", "/v2/models/identities"),
        ("GET", "/v1/models/identities:predict"),
        ("TRACE", CLASSIFY),
    ):
        yield raw(
            "method",
            f"{method} {target}",
            "the route has no such method",
            head(target, method=method.encode()),
            expected=_WRONG_METHOD,
        )
    yield raw(
        "method",
        "OPTIONS *",
        "the service has no such route",
        head("*", method=b"OPTIONS"),
        expected=_NOWHERE | BROKEN | _WRONG_METHOD,
    )


def _queries() -> Iterator[Input]:
    picture = good_files()["png"]
    for name, query, expected in (
        ("an unknown parameter", "name=identities", _WRONG_PARAMETER),
        ("10,000 parameters", "&".join(f"a{n}=b" for n in range(5000)), _WRONG_PARAMETER),
        ("top_k of 0", "top_k=0", _WRONG_PARAMETER),
        ("top_k below 0", "top_k=-1", _WRONG_PARAMETER),
        ("top_k that is a fraction", "top_k=1.5", _WRONG_PARAMETER),
        ("top_k that is a word", "top_k=all", _WRONG_PARAMETER),
        ("top_k of nothing", "top_k=", _WRONG_PARAMETER),
        ("top_k of 10**30", f"top_k={10**30}", _WRONG_PARAMETER),
        ("top_k of 5,000 digits", "top_k=" + "9" * 5000, _WRONG_PARAMETER),
        ("top_k that is NaN", "top_k=nan", _WRONG_PARAMETER),
        ("top_k with NUL", "top_k=5%00", _WRONG_PARAMETER),
        ("version below 0", "version=-1", _WRONG_PARAMETER),
        ("version that is a word", "version=latest", _WRONG_PARAMETER),
        ("version of 10**30", f"version={10**30}", _NOWHERE | _WRONG_PARAMETER),
        ("version 99", "version=99", _NOWHERE),
        ("on_error of nothing", "on_error=", _WRONG_PARAMETER),
        ("on_error that is none", "on_error=ignore", _WRONG_PARAMETER),
        ("a parameter in capitals", "TOP_K=1", _WRONG_PARAMETER),
        ("broken percents", "top_k=%zz", _WRONG_PARAMETER),
        ("top_k twice", "top_k=0&top_k=3", HARMLESS),
    ):
        yield post(
            "query", name, "docs/api.md has the parameters", picture, "image/png", expected,
            target=f"{CLASSIFY}?{query}",
        )  # fmt: skip
    for name, text in PATHS.items():
        if "%zz" not in text:
            yield post(
                "query", f"model: {name}", "there is no such model", picture, "image/png", _NOWHERE,
                target=f"{CLASSIFY}?model={text.replace('&', '%26')}",
            )  # fmt: skip
    # The text of a query is kept for the next request; a million of them must not be.
    for number in range(3):
        yield raw(
            "query",
            f"1,000 different queries, {number}",
            "each is refused, and few are remembered",
            *(
                head(f"{CLASSIFY}?x{number}_{n}={'y' * 3000}", b"Content-Length: 0")
                for n in range(1000)
            ),
            expected=_WRONG_PARAMETER,
            answers=1000,
        )


def _types() -> Iterator[Input]:
    picture = good_files()["png"]
    for content_type in (
        "text/plain",
        "application/xml",
        "application/pdf",
        "video/mp4",
        "application/x-python-pickle",
        "application/octet-stream2",
        "multipart",
        "image",
        "json",
        "/",
        "\xff\xfe",
        "a" * 5000,
    ):
        yield post(
            "content type", content_type[:30], "not read", picture, content_type, _WRONG_TYPE
        )
    yield raw(
        "content type",
        "two content types",
        "the first counts: it is no JSON",
        head(
            CLASSIFY,
            b"Content-Type: application/json",
            b"Content-Type: image/png",
            b"Content-Length: %d" % len(picture),
        ),
        picture,
    )


def _compressed() -> Iterator[Input]:
    picture = good_files()["png"]
    bomb = many_zeros(512, 31)
    for coding in ("gzip", "deflate", "br", "zstd", "compress", "gzip, gzip", "x" * 1000):
        yield post(
            "compression", f"coding {coding[:20]}", "bodies come as they are",
            gzip.compress(picture), "image/png", _WRONG_TYPE,
            headers=(b"Content-Encoding: " + coding.encode(),),
        )  # fmt: skip
    for target in (CLASSIFY, "/v1/models/identities:predict"):
        yield post(
            "compression", f"512 MiB in a gzip to {target}", "bodies come as they are", bomb, "",
            _WRONG_TYPE, target=target, headers=(b"Content-Encoding: gzip",),
        )  # fmt: skip
    yield post(
        "compression", "a gzip that does not say so", "no image", bomb, "image/png",
        frozenset({422}),
    )  # fmt: skip
    zeros = zlib.compress(bytes(2**20))
    yield post(
        "compression", "a zlib stream as octets", "no image", zeros, "application/octet-stream",
        frozenset({422}),
    )  # fmt: skip


def _headers() -> Iterator[Input]:
    picture = good_files()["png"]
    for text in (
        "", "0", "-1", "+5", "1e9", "inf", "nan", "5 minutes", "5,0", "0.0ms", "99999", "3601",
        "9" * 5000, "1_0", "5s5s", "0x10",
    ):  # fmt: skip
        yield post(
            "deadline", f"X-Request-Timeout: {text[:20]!r}", "no time, or more than an hour",
            picture, "image/png", _WRONG_PARAMETER,
            headers=(b"X-Request-Timeout: " + text.encode(),),
        )  # fmt: skip
    for name, header in {
        "an id with a line end in percents": b"X-Request-ID: a%0d%0aSet-Cookie: b=c",
        "an id of 5,000 letters": b"X-Request-ID: " + b"a" * 5000,
        "an id outside of ASCII": b"X-Request-ID: \xc3\xa9\xff",
        "Accept of 1,000 types": b"Accept: " + b"a/b;q=0.1," * 1000,
        "Accept that is broken": b"Accept: ;;;,,,q==",
        "a language that is broken": b"Accept-Language: \xff",
        "a range": b"Range: bytes=0-18446744073709551615",
        "another host": b"X-Forwarded-Host: evil.example",
        "another address": b"X-Forwarded-For: " + b"127.0.0.1, " * 1000,
        "a method of its own": b"X-HTTP-Method-Override: DELETE",
        "another path": b"X-Original-URL: /admin",
        "log4shell": b"User-Agent: ${jndi:ldap://127.0.0.1/a}",
        "shellshock": b"User-Agent: () { :; }; /bin/true",
        "a cookie": b"Cookie: " + b"a=b; " * 2000,
        "keep-alive for ever": b"Keep-Alive: timeout=999999999999",
        "expect something else": b"Expect: 200-maybe",
        "trace context that is broken": b"traceparent: 00-" + b"z" * 500,
    }.items():
        yield post(
            "header", name, "it means nothing here", picture, "image/png", HARMLESS,
            headers=(header,),
        )  # fmt: skip
