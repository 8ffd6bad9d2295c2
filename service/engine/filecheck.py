"""Check one model file: is it as it was written, and does it answer as it should here?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.engine.bundle import read_bundle
from service.engine.digest import DigestState, check_digest
from service.engine.errors import ModelLoadError
from service.engine.golden import GoldenOutcome, compare_golden_images
from service.engine.session import Session, SessionOptions, available_cpus
from service.metadata import Precision


@dataclass(frozen=True)
class FileCheck:
    """What a check has found.

    Attributes:
        path: The file.
        model: Its bytes, the very ones that were checked.
        sha256: Of them, hex.
        digest: Whether the file is the one that was written.
        precision: Of weights and activations; None where the file does not state it.
        provider: The execution provider that ran the pictures.
        pictures: One outcome a golden image.
    """

    path: Path
    model: bytes
    sha256: str
    digest: DigestState
    precision: Precision | None
    provider: str
    pictures: list[GoldenOutcome]

    @property
    def faults(self) -> list[str]:
        """What is wrong, one sentence each; none in a file that is right."""
        found = []
        if self.digest == "differs":
            found.append("the file was changed after it was written: its digest differs")
        if not self.pictures:
            found.append(
                "the file has no golden images, so nothing proves what it answers; models from"
                " elsewhere come in with 'adaresnet import'"
            )
        failed = sum(not picture.passed for picture in self.pictures)
        if failed:
            found.append(
                f"{failed} of {len(self.pictures)} golden images differ from PyTorch by more than"
                " the file allows"
            )
        return found


def check_file(path: Path, device: str) -> FileCheck:
    """Replay the golden images of a file, and compare its digest.

    Raises:
        ModelLoadError: The file can't be loaded at all: damaged, or its metadata contradicts itself
            (labels that are not those of its golden images, say).
        DeviceError: The demanded device can't be used.
        InferenceError: The network failed.
    """
    bundle = read_bundle(path)
    session = Session(
        bundle.model, SessionOptions(device=device, threads=available_cpus()), bundle.config
    )
    return FileCheck(
        path=path,
        model=bundle.model,
        sha256=bundle.digest,
        digest=check_digest(bundle.model, session.metadata.file_digest),
        precision=session.metadata.precision,
        provider=session.provider,
        pictures=compare_golden_images(session),
    )


def require_sound(check: FileCheck) -> None:
    """Refuse a file in which a check has found a fault.

    Raises:
        ModelLoadError: It has.
    """
    if check.faults:
        raise ModelLoadError(
            f"{check.path}: {'; '.join(check.faults)}.",
            hint="'adaresnet verify' shows every picture.",
        )
