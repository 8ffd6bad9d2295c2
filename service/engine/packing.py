"""Put weights that a model keeps in files beside it into the model file itself.

PyTorch's newer exporter writes such files for any size of network. One file is easier to check, to
copy and to replace in one step, so a version in the repository always is one.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from service.engine.errors import ModelLoadError
from service.engine.onnx_file import MAX_MODEL_BYTES, Field, look_through, message_fields

_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_BYTES = 2


def read_packed(path: Path) -> bytes:
    """Read a model file, with the weights that it keeps in files of its own folder.

    Raises:
        ModelLoadError: It can't be read, is no ONNX model, or its weights are not where they
            should be: in a file that lies in the same folder.
    """
    data = _read(path, 0, None)
    if not look_through(data).external:
        return data
    packed = bytearray()
    for item in message_fields(data, 0, len(data)):
        if item.number == _GRAPH and item.wire == _BYTES:
            packed += _message(_GRAPH, _packed_graph(data, item, path))
        else:
            packed += data[item.begin : item.stop]
    if len(packed) > MAX_MODEL_BYTES:
        raise ModelLoadError(
            f"The model and its weights have {len(packed)} bytes; the limit is {MAX_MODEL_BYTES}.",
            hint="Serve a smaller model.",
        )
    return bytes(packed)


def _packed_graph(data: bytes, graph: Field, path: Path) -> bytes:
    packed = bytearray()
    for item in message_fields(data, graph.start, graph.stop):
        if item.number == _INITIALIZER and item.wire == _BYTES:
            packed += _message(_INITIALIZER, _packed_tensor(data, item, path))
        else:
            packed += data[item.begin : item.stop]
    return bytes(packed)


def _packed_tensor(data: bytes, tensor: Field, path: Path) -> bytes:
    fields = list(message_fields(data, tensor.start, tensor.stop))
    where = dict(_entry(data, f) for f in fields if f.number == _EXTERNAL_DATA)
    if not where:
        return data[tensor.start : tensor.stop]
    dropped = (_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION)
    kept = b"".join(data[f.begin : f.stop] for f in fields if f.number not in dropped)
    return kept + _message(_RAW_DATA, _weights(path, where))


def _weights(path: Path, where: dict[str, str]) -> bytes:
    location = where.get("location", "")
    offset, length = where.get("offset", "0"), where.get("length")
    if not all(number.isdecimal() and len(number) < 20 for number in (offset, length or "0")):
        raise ModelLoadError(
            f"Weights lie at offset {offset[:20]!r} with length {str(length)[:20]!r} of another"
            " file; these are no numbers.",
            hint="The file is damaged; export it again.",
        )
    return _read(_beside(path, location), int(offset), int(length) if length else None)


def _beside(path: Path, location: str) -> Path:
    """The file of weights, which must lie where the model lies, links followed or not."""
    plain = PurePosixPath(location)
    target = path.parent / plain
    homes = {path.parent.resolve(), path.resolve().parent}  # a download cache has links to both
    if (
        not location
        or plain.is_absolute()
        or ".." in plain.parts
        or any(sign in location for sign in ("\\", ":", "\0"))
        or not any(target.resolve().is_relative_to(home) for home in homes)
    ):
        raise ModelLoadError(
            f"The model keeps weights in {location[:200]!r}, which leaves its folder.",
            hint="Put the weights beside the model and export it with a plain file name.",
        )
    return target


def _entry(data: bytes, item: Field) -> tuple[str, str]:
    values = {f.number: data[f.start : f.stop] for f in message_fields(data, item.start, item.stop)}
    key, value = values.get(1, b""), values.get(2, b"")
    return key.decode("utf-8", "replace"), value.decode("utf-8", "replace")


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read(path: Path, offset: int, length: int | None) -> bytes:
    if path.exists() and not path.is_file():
        raise ModelLoadError(f"{path.name!r} is no file.", hint="Check the path.")
    try:
        with path.open("rb") as file:
            there = path.stat().st_size - offset
            wanted = there if length is None else length
            if wanted > min(there, MAX_MODEL_BYTES) or there < 0:
                raise ModelLoadError(
                    f"{path.name!r} has too few bytes, or too many: {wanted} from byte {offset} on"
                    f" are wanted of {there + offset}, and at most {MAX_MODEL_BYTES}.",
                    hint="Copy it again.",
                )
            file.seek(offset)
            return file.read(wanted)
    except OSError as error:
        raise ModelLoadError(
            f"{path.name!r} can't be read: {error.strerror}.", hint="Check the path."
        ) from error
