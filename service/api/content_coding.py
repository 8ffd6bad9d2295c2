"""Whether a body is compressed on its way (RFC 9110, 8.4)."""

from __future__ import annotations

from collections.abc import Iterable

from service.engine.errors import UnsupportedMediaError


def read_coding(values: Iterable[bytes]) -> str:
    """The codings that ``Content-Encoding`` names, in the order in which they were applied.

    Args:
        values: Of every such header; several are one list (RFC 9110, 5.3).

    Returns:
        In lower case, divided by ", "; empty where there is none but ``identity``.
    """
    named = b",".join(values).decode("latin-1").lower().split(",")
    return ", ".join(one for name in named if (one := name.strip()) not in ("", "identity"))


def refuse_coding(values: Iterable[bytes]) -> None:
    """Refuse a body that is compressed in any way.

    Raises:
        UnsupportedMediaError: One of the headers' values says that it is.
    """
    coding = read_coding(values)
    if coding:
        raise UnsupportedMediaError(
            f"Content encoding {coding[:50]!r} is not supported.",
            hint="Send the body uncompressed.",
        )
