"""``adaresnet doctor``: can this machine, with these settings, serve these models?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from service.cli import fail
from service.commands.options import missing_runtime

if TYPE_CHECKING:
    from service.doctor.findings import Finding
    from service.doctor.origins import Origin
    from service.settings import Settings

_PROGRAM = "adaresnet doctor"
_HOW_TO_CORRECT = "Correct it; docs/settings.md lists what is allowed."
_HELP = """\
usage: adaresnet doctor [--json] [any flag of 'adaresnet serve']

Look at the machine, the GPUs and their libraries, where each setting came from, and every model:
each is loaded and run on the device that would serve it, and its golden images are compared. Each
problem comes with its fix. Exit status: 0 no problem, 1 problems.

  --json    everything, as JSON, to send along with a question"""


def doctor(argv: list[str]) -> int:
    """Examine machine, GPU, settings and models, and say what to do about each problem."""
    if {"-h", "--help"} & set(argv):
        print(_HELP)
        return 0
    as_json = "--json" in argv
    flags = [word for word in argv if word != "--json"]
    if (line := missing_runtime()) is not None:
        return fail(_PROGRAM, line)

    from service.doctor.bundles import examine_models
    from service.doctor.findings import Finding
    from service.doctor.gpus import examine_gpus
    from service.doctor.machine import examine_machine
    from service.doctor.origins import find_origins
    from service.engine.session import available_cpus
    from service.settings import Settings, load_settings
    from service.tuning.machine import describe_machine, describe_versions

    findings: list[Finding] = []
    origins: list[Origin] = []
    try:
        settings = load_settings(flags, program=_PROGRAM)
        origins = find_origins(settings, flags)
    except ValueError as error:
        settings = Settings.model_construct()
        findings.append(
            Finding(
                "settings",
                "problem",
                f"The service would not start: {error}. Defaults are examined instead.",
                _HOW_TO_CORRECT,
            )
        )
    else:
        findings += _examine_settings(settings, origins)
    findings += examine_machine(settings.workers, settings.max_connections)
    findings += examine_gpus(settings.device)
    findings += examine_models(
        settings.repository, settings.model_name, settings.default_model, settings.device
    )
    machine, versions = describe_machine(available_cpus()), describe_versions()
    if as_json:
        report = {
            "machine": machine,
            "versions": versions,
            "findings": [asdict(finding) for finding in findings],
            "settings": [asdict(origin) for origin in origins],
        }
        print(json.dumps(report, indent=2))
    else:
        print("\n".join([versions, machine, "", *_table(findings), "", *_settings(origins)]))
    problems = sum(finding.state == "problem" for finding in findings)
    if problems:
        print(f"{_PROGRAM}: problems: {problems}", file=sys.stderr)
    return int(problems > 0)


def _examine_settings(settings: Settings, origins: list[Origin]) -> Iterator[Finding]:
    """What ``adaresnet serve`` would say about settings that could be read."""
    from service.api.auth.build import find_risks
    from service.api.obstacles import find_obstacles
    from service.doctor.findings import Finding
    from service.setting_names import strays
    from service.settings import Settings

    obstacles = list(find_obstacles(settings))
    for obstacle in obstacles:
        text = f"The service would not start: {obstacle}."
        yield Finding("settings", "problem", text, _HOW_TO_CORRECT)
    if not obstacles:
        changed = sum(origin.source != "default" for origin in origins)
        yield Finding("settings", "ok", f"{changed} of {len(origins)} are set.")
    for warning in (*find_risks(settings), *strays(os.environ, Settings.model_fields)):
        text = warning if warning.endswith("?") else f"{warning}."
        yield Finding("settings", "warning", text, _HOW_TO_CORRECT)


def _table(findings: list[Finding]) -> list[str]:
    width = max(len(finding.about) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<8} {finding.about:<{width}}  {finding.found}")
        if finding.fix:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.fix}")
    return lines


def _settings(origins: list[Origin]) -> list[str]:
    changed = [origin for origin in origins if origin.source != "default"]
    if not changed:
        return ["Every setting has its default."]
    lines = [f"{origin.name} = {origin.value}  ({origin.source})" for origin in changed]
    return [*lines, "Every other setting has its default."]
