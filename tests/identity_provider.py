"""A small OpenID Connect provider: discovery, keys over HTTP, and tokens that it signs."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "adaresnet"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class IdentityProvider:
    """Listens on a port of its own while it is entered; can be taken down and put up again."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, PrivateKey]] = {}
        self.fetches = 0
        self.says_issuer: str | None = None
        self.is_up = True
        self.was_asked = threading.Event()
        self.may_answer = threading.Event()  # cleared: it takes requests and says nothing
        self.may_answer.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.was_asked.set()
                provider.may_answer.wait()
                if not provider.is_up:
                    self.send_error(503)
                    return
                body = json.dumps(provider.document(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self.add_rsa("rsa-1")

    def __enter__(self) -> IdentityProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add_rsa(self, key_id: str, algorithm: str = "RS256") -> None:
        self.keys[key_id] = algorithm, rsa.generate_private_key(65537, 2048)

    def add_ec(self, key_id: str) -> None:
        self.keys[key_id] = "ES256", ec.generate_private_key(ec.SECP256R1())

    def document(self, path: str) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.says_issuer or self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        assert path == "/keys", path
        self.fetches += 1
        return {"keys": [self.public_jwk(key_id) for key_id in self.keys]}

    def public_jwk(self, key_id: str) -> dict[str, Any]:
        algorithm, key = self.keys[key_id]
        kind = jwt.algorithms.RSAAlgorithm if algorithm != "ES256" else jwt.algorithms.ECAlgorithm
        jwk = kind.to_jwk(key.public_key(), as_dict=True)  # type: ignore[call-overload]
        return {**jwk, "kid": key_id, "use": "sig", "alg": algorithm}

    def token(self, key_id: str = "rsa-1", **changes: Any) -> str:
        """A token that is good; a change of None leaves a claim out."""
        algorithm, key = self.keys[key_id]
        return jwt.encode(
            self.claims(**changes), key, algorithm, headers={"kid": key_id, "typ": "JWT"}
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "somebody",
            "iat": now,
            "exp": now + 300,
            "scope": "openid predict",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}
