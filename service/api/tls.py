"""The certificate of the service, which can be read again while it serves."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

_logger = logging.getLogger(__name__)


class Certificate:
    """A certificate with its key, and the TLS context that shows it.

    Attributes:
        context: For listening; TLS 1.2 and newer.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read both.

        Raises:
            ValueError: One can't be read, or they don't belong together.
        """
        self._files = certificate, key
        self.context = self._load(_new_context())

    def reload(self) -> None:
        """Show what the files hold now to whoever connects from now on, if it is right."""
        try:
            self._load(_new_context())  # half of a wrong pair would stay in the context
            self._load(self.context)
        except ValueError as error:
            _logger.error("%s; the certificate from before goes on", error)
        else:
            _logger.info("read the certificate again")

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        certificate, key = self._files
        try:
            # Without a password for the key none can be asked for on a terminal.
            context.load_cert_chain(certificate, key, password=b"")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ValueError(
                f"tls_certificate {certificate} and tls_key {key} can't be used: {reason}"
            ) from None
        return context


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def certificate_of(certificate: Path | None, key: Path | None) -> Certificate | None:
    """The certificate that the settings name; None where they name none.

    Raises:
        ValueError: One of the two is missing, or they can't be used.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("tls_certificate and tls_key need each other")
    return Certificate(certificate, key)
