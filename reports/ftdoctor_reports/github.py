"""What GitHub Actions takes: a summary of the job, annotations, and a log in which no text runs a command.

In a step that prints a run:

- `summary` is appended to the file that `GITHUB_STEP_SUMMARY` names,
- what came from outside is printed between `stop_commands(token)` and `resume_commands(token)`, or through `guarded`,
- each line of `annotations` is printed after that, on a line of its own.

The rules are those of https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence

from ftdoctor.results import Finding, Run
from ftdoctor.wording import shorten, visible
from ftdoctor_reports import markdown, tally

SUMMARY = 1_000_000
"""Bytes of a summary: GitHub takes 1 MiB a step, and shows nothing of what is larger."""
MOST = 10
"""Annotations of a kind that GitHub shows a step."""
TITLE, MESSAGE = 200, 3_000
"""Characters of the two parts of an annotation."""


def in_actions(environ: Mapping[str, str]) -> bool:
    """Say whether this is a step of a workflow of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


def summary(run: Run, limit: int = SUMMARY) -> str:
    """Return the run as Markdown for the summary of a job, in at most `limit` bytes of UTF-8, with a line feed."""
    return markdown.render(run, limit - 1).rstrip("\n") + "\n"


def annotations(run: Run) -> list[str]:
    """Return the workflow commands that mark a job: errors for findings, warnings, a notice; at most 10 of a kind.

    Each is one line, whatever the run holds. They name no file: what is at fault is installed, and not in the
    repository.
    """
    errors = [_of_finding(f) for f in run.findings if not f.accepted]
    if run.outcome == "unexamined":
        errors.append(("nothing could be examined", tally.verdict(run)))
    warnings = [(result.probe, text) for result, text in tally.warned(run)]
    if run.interrupted:
        warnings.insert(0, ("the run was interrupted", tally.verdict(run)))
    if not run.redaction.done:
        warnings.insert(0, ("not redacted", "this log and its reports may hold secrets, names and paths"))
    notices = [("ftdoctor", tally.verdict(run))]
    kinds = {"error": errors, "warning": warnings, "notice": notices}
    return [_command(kind, *told) for kind, listed in kinds.items() for told in _most(listed)]


def new_token() -> str:
    """Return a token with which nobody else can resume the commands of a log."""
    return secrets.token_hex(16)


def stop_commands(token: str) -> str:
    """Return the line after which the runner takes no line for a command, until `resume_commands`."""
    return f"::stop-commands::{token}\n"


def resume_commands(token: str) -> str:
    """Return the line after which the runner takes commands again; it must stand at the beginning of a line."""
    return f"::{token}::\n"


def guarded(text: str) -> str:
    """Return a text between the lines that keep the runner from taking any of it for a command."""
    token = new_token()
    return f"{stop_commands(token)}{text}{'' if text.endswith(chr(10)) else chr(10)}{resume_commands(token)}"


def _of_finding(finding: Finding) -> tuple[str, str]:
    rows = (
        ("", finding.summary),
        ("culprit: ", str(finding.culprit or "")),
        ("depends on: ", finding.dependence),
        ("cure: ", finding.cure),
        ("again: ", finding.again),
    )
    return finding.probe, "\n".join(f"{label}{text}" for label, text in rows if text)


def _most(listed: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield as many as GitHub shows; where there are more, the last one counts them."""
    if len(listed) <= MOST:
        yield from listed
        return
    yield from listed[: MOST - 1]
    rest = listed[MOST - 1 :]
    names = ", ".join(dict.fromkeys(title for title, _ in rest))
    yield f"{len(rest)} more of these", f"{names}: see the summary of the job"


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(visible(shorten(title, TITLE)))}::{_data(visible(shorten(message, MESSAGE)))}"


def _data(text: str) -> str:
    """Escape the message of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape the value of a property of a command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
