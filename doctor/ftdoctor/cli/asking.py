"""From the command line and the configuration to a request: what is to be examined and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ftdoctor.config import Config
    from ftdoctor.probe import Probe
    from ftdoctor.request import Request
    from ftdoctor.runner.journal import Journal


def asked(chosen: Mapping[str, Any], configuration: Config) -> Request:
    """Make the request out of the command line, which wins, and the configuration."""
    import ftdoctor_matrix as matrix
    from ftdoctor import registry
    from ftdoctor.cells import parse_selection
    from ftdoctor.errors import UsageError
    from ftdoctor.request import Request
    from ftdoctor.wording import nearest

    profile = chosen["profile"] or configuration.profile or "default"
    if profile not in matrix.profiles():
        known = ", ".join(matrix.profiles())
        raise UsageError(f"There is no profile {profile!r}{nearest(profile, matrix.profiles())}; there are {known}.")
    names = chosen["probes"] or configuration.probes
    return Request(
        probes=registry.choose(names) if names else _of_areas(registry.probes(), matrix.profiles()[profile].areas),
        profile=profile,
        selection=parse_selection(chosen["cells"] or configuration.cells, matrix.axes()),
        model=_model(chosen),
        trust_remote_code=chosen["trust_remote_code"],
        **_how(chosen, configuration),
    )


def _of_areas(probes: Mapping[str, Probe], areas: Sequence[str]) -> dict[str, Probe]:
    """Return the probes that a profile examines where none is named: those of its areas."""
    return {name: probe for name, probe in probes.items() if not areas or probe.area in areas}


def resumed(journal: Journal, chosen: Mapping[str, Any], configuration: Config) -> Request:
    """Make the request out of a journal's header: what is examined is what that run was asked.

    Raises:
        JournalError: it is not a journal.
    """
    from ftdoctor import registry
    from ftdoctor.request import Request

    header = journal.header()
    return Request(
        probes=registry.choose(header["probes"]),
        profile=header["profile"],
        selection={a: tuple(v) for a, v in header["selection"].items()},
        model=header["model"],
        trust_remote_code=header["trust_remote_code"],
        resume=journal,
        **_how(chosen, configuration),
    )


def _how(chosen: Mapping[str, Any], configuration: Config) -> dict[str, Any]:
    return {
        "jobs": chosen.get("jobs") or configuration.jobs,
        "timeout": chosen.get("timeout") or configuration.timeout,
        "expect": configuration.expect,
        "thresholds": configuration.thresholds,
        "accept": configuration.accept,
    }


def _model(chosen: Mapping[str, Any]) -> str:
    """Return the local folder of the user's model, fetched first where --online allows it."""
    if not chosen["model"]:
        return ""
    from ftdoctor.bench.models import refuse_unsafe

    folder = Path(chosen["model"])
    if not folder.exists() and chosen["online"]:
        from ftdoctor.bench.hub import fetch

        folder = fetch(chosen["model"], chosen["trust_remote_code"])
    refuse_unsafe(folder, chosen["trust_remote_code"])
    return str(folder.resolve())
