"""``adaresnet publish``: put a verified file into a model repository."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from service.cli import fail
from service.commands.options import add_device, missing_runtime
from service.settings import ENV_PREFIX

_PROGRAM = "adaresnet publish"


def publish(argv: list[str]) -> int:
    """Verify a model file, and put it into a repository as the next version of a name."""
    parser = argparse.ArgumentParser(_PROGRAM, description=publish.__doc__)
    parser.add_argument("file", metavar="FILE", help="ONNX file, from 'adaresnet export --out'")
    parser.add_argument("--name", required=True, help="name in the model repository")
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(os.environ.get(ENV_PREFIX + "MODELS", "models")),
        help="model repository (default: models)",
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of one line")
    args = parser.parse_args(argv)
    if (line := missing_runtime()) is not None:
        return fail(_PROGRAM, line)

    from service.engine.errors import ServiceError
    from service.engine.filecheck import check_file, require_sound
    from service.engine.locate import find_model_file
    from service.engine.publish import PublishError, check_name
    from service.engine.publish import publish as put

    try:
        check_name(args.name)
        checked = check_file(find_model_file(args.file, args.models), args.device)
        require_sound(checked)
        # The bytes that were checked, whatever has become of the file since.
        path = put(checked.model, args.models, args.name)
    except ServiceError as error:
        return fail(_PROGRAM, f"{error.detail} {error.hint}")
    except PublishError as error:
        return fail(_PROGRAM, str(error))
    version = int(path.parent.name)
    answer = {"name": args.name, "version": version, "path": str(path), "sha256": checked.sha256}
    print(json.dumps(answer, indent=2) if args.json else f"wrote {path}")
    return 0
