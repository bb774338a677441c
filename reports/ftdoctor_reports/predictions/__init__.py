"""Predictions over the steps of a training as one self-contained HTML page.

Everything stands in the document in reading order; the script only filters. The page loads nothing, and its policy
names its one script and its style by their hashes: whatever a model wrote, none of it runs.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ftdoctor.wording import count, seconds, visible
from ftdoctor_reports.elements import definitions, h, page, table
from ftdoctor_reports.predictions import plot
from ftdoctor_reports.predictions.tally import made
from ftdoctor_reports.predictions.text import changed, text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree import ElementTree as ET

    from ftdoctor.prediction.rows import PredictionRow
    from ftdoctor_reports.predictions.tally import Job, Judged, Step

VIEWS = {
    "before": "changes since the step before",
    "truth": "changes from the ground truth",
    "plain": "as written",
}
FOLDED_STEPS = 12
"""A table of more steps than these is folded."""
EXPLAINED = (
    "Underlined words are new, struck words are gone: since the step before, or beside the ground truth. ",
    "Exact means: the same text as the ground truth, but for white space around it. ",
    "Similarity is twice the number of words that both have in the same order, divided by the words of both, ",
    "from 0 to 1 (ROUGE-L); signs of punctuation are words. Predictions that failed are counted apart, not as wrong. ",
    "Characters that cannot be seen are shown so: ",
)


def render(jobs: Sequence[Job], source: str = "") -> str:
    """Return the page of these jobs, as `tally.jobs` makes them; the first is the newest.

    Args:
        jobs: one or more.
        source: what the predictions were read from; shown as it is, so leave out passwords.
    """
    main = h(
        "main",
        h("header", h("h1", "Predictions during training"), h("p", h("bdi", visible(source))) if source else None),
        _controls(jobs),
        *(_job(job, number, alone=len(jobs) == 1) for number, job in enumerate(jobs, 1)),
        h(
            "footer",
            h("p", *EXPLAINED, h("span", "\\x1b", class_="code"), ", ", h("span", "\\u202e", class_="code"), "."),
        ),
    )
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return page(f"Predictions: {visible(jobs[0].name)}, {jobs[0].verdict()}", main, style, script)


def _prefix(number: int) -> str:
    """Return what the anchors of a job begin with; those of the newest job are the short ones."""
    return "" if number == 1 else f"job-{number}-"


def _controls(jobs: Sequence[Job]) -> ET.Element:
    """Return what chooses: the view works without a script, the filters are hidden where there is none."""
    views = [
        h(
            "label",
            h("input", {"checked": ""} if name == "before" else {}, type="radio", name="view", id=f"view-{name}"),
            label,
        )
        for name, label in VIEWS.items()
    ]
    steps = sorted({step.step for job in jobs for step in job.steps})
    samples = sorted({index for job in jobs for index in job.samples})
    names = {str(number): visible(job.name) for number, job in enumerate(jobs, 1)}
    filters = (
        _choice("job", "all jobs", names) if len(jobs) > 1 else None,
        _choice("step", "all steps", {str(step): f"step {step}" for step in steps}),
        _choice("sample", "all samples", {str(index): f"sample {index}" for index in samples}),
        h("label", h("span", "find "), h("input", type="search", id="find", placeholder="text")),
        h("button", "clear", type="button", id="clear"),
        h("output", {"aria-live": "polite"}, id="told"),
    )
    return h(
        "div",
        h("fieldset", h("legend", "show"), *views),
        h("fieldset", h("legend", "only"), *filters, {"hidden": ""}, id="filters"),
        class_="controls",
    )


def _choice(name: str, every: str, values: dict[str, str]) -> ET.Element:
    options = [h("option", label, value=value) for value, label in values.items()]
    return h("label", h("span", f"{name} "), h("select", h("option", every, value=""), *options, id=name))


def _job(job: Job, number: int, *, alone: bool) -> ET.Element:
    prefix = _prefix(number)
    state = "failed" if job.lost else "warned" if job.steps[-1].failed else ""
    known = any(step.judged or step.failed for step in job.steps)
    caption = (
        "Share of exact matches (● solid) and mean similarity to the ground truth (■ dashed) over the steps; "
        "✗ counts predictions that failed."
    )
    return h(
        "section",
        h(
            "h2",
            "Job ",
            h("bdi", visible(job.name)),
            h("small", " of ", h("bdi", visible(job.user))) if job.user else None,
        ),
        h("p", job.verdict(), class_=f"verdict {state}"),
        h("p", job.extent(), class_="failed" if job.failed else ""),
        h("p", job.usual, class_="note"),
        h("figure", plot.over_steps(job.steps, prefix), h("figcaption", caption)) if known else None,
        _steps(job.steps, prefix),
        *(_sample(index, history, job, prefix) for index, history in job.samples.items()),
        {"data-job": str(number)},
        id=f"{prefix}steps" if alone else f"job-{number}",
    )


def _steps(steps: Sequence[Step], prefix: str) -> ET.Element:
    rows = [
        h(
            "tr",
            h("th", h("a", str(step.step), href=f"#{prefix}step-{step.step}"), scope="row"),
            h("td", "" if step.epoch is None else f"{step.epoch:.3g}"),
            h("td", f"{step.exact} of {step.judged}" if step.judged else "no ground truth" if not step.failed else "-"),
            h("td", "-" if step.similarity is None else f"{step.similarity:.2f}"),
            h(
                "td",
                f"✗ {step.failed} of {step.predictions}" if step.failed else "none",
                class_="failed" if step.failed else "",
            ),
            id=f"{prefix}step-{step.step}",
        )
        for step in steps
    ]
    drawn = table(("step", "epoch", "exact", "similarity", "failed"), rows)
    opened = {"open": ""} if len(steps) <= FOLDED_STEPS else {}
    return h("details", h("summary", count(len(steps), "step")), drawn, opened, class_="steps")


def _sample(index: int, history: Sequence[Judged], job: Job, prefix: str) -> ET.Element:
    anchor = f"{prefix}sample-{index}"
    last, usual = history[-1].row, job.usual
    others = [one.row for one in history if (one.row.prompt, one.row.ground_truth) != (last.prompt, last.ground_truth)]
    truth = h("p", "none: nothing to judge by", class_="note") if last.ground_truth is None else text(last.ground_truth)
    other = (
        f"At {count(len(others), 'step')} prompt or ground truth was another one; these are those of step {last.step}."
    )
    return h(
        "article",
        h("h3", h("a", f"Sample {index}", href=f"#{anchor}"), plot.of_sample(history, job.steps)),
        h("p", other, class_="warned") if others else None,
        definitions([("prompt", text(last.prompt)), ("ground truth", truth)]),
        h("ol", *(_prediction(one, anchor, usual, last) for one in history)),
        {"data-sample": str(index)},
        id=anchor,
        class_="sample",
    )


def _prediction(one: Judged, anchor: str, usual: str, last: PredictionRow) -> ET.Element:
    row = one.row
    place = f"{anchor}-step-{row.step}"
    heading = h("div", h("a", f"step {row.step}", href=f"#{place}"), *_marks(one), _small(one, usual), class_="facts")
    return h(
        "li",
        heading,
        h("div", *_otherwise(row, last), *_written(one, f"#{anchor}")),
        {"data-step": str(row.step)},
        id=place,
        class_="prediction",
    )


def _otherwise(row: PredictionRow, last: PredictionRow) -> list[ET.Element]:
    """Return prompt and ground truth of a step at which they were not those that stand above."""
    shown = []
    if row.prompt != last.prompt:
        shown.append(h("div", h("p", "prompt at this step:", class_="note"), text(row.prompt)))
    if row.ground_truth != last.ground_truth:
        truth = "none" if row.ground_truth is None else text(row.ground_truth)
        shown.append(h("div", h("p", "ground truth at this step:", class_="note"), truth))
    return shown


def _marks(one: Judged) -> list[Any]:
    if one.failed:
        return [" ", h("span", "✗ failed", class_="failed")]
    if one.exact:
        return [" ", h("span", "✓ exact", class_="passed")]
    if one.exact is None:
        return []
    return [" ", h("span", "too long to compare" if one.similarity is None else f"similarity {one.similarity:.2f}")]


def _small(one: Judged, usual: str) -> ET.Element:
    """Return what is known of how it was made, as far as it is not what is usual in its job."""
    row = one.row
    ended = {"length": "cut at the limit of tokens", "time": "cut at the limit of time", "stop": "", "error": ""}
    told = (
        "" if one.failed else count(row.tokens, "token"),
        visible(ended.get(row.finish, row.finish)),
        seconds(row.seconds),
        f"prompt clipped by {count(row.clipped, 'token')}" if row.clipped else "",
        made(row) if made(row) != usual else "",
    )
    return h("small", " · ".join(part for part in told if part), class_="note")


def _written(one: Judged, sample: str) -> list[ET.Element]:
    """Return the prediction in its views; or the error, never nothing."""
    row = one.row
    error = [h("p", "✗ ", h("bdi", visible(row.error)), class_="failed")] if row.error else []
    if row.prediction is None:
        return error or [h("p", "✗ There is neither a prediction nor an error.", class_="failed")]
    if one.before is None or one.before.prediction is None:
        own = [h("p", "the first prediction", class_="note"), text(row.prediction)]
    elif one.unchanged:
        same = h(
            "summary", "the same as at ", h("a", f"step {one.before.step}", href=f"{sample}-step-{one.before.step}")
        )
        own = [h("details", same, text(row.prediction), class_="same")]
    else:
        note = h("p", f"changes since step {one.before.step}", class_="note")
        own = [note, changed(one.before.prediction, row.prediction, whole=True)]
    if row.ground_truth is None:
        beside = [h("p", "no ground truth", class_="note"), h("p", "see the other views")]
    else:
        note = h("p", "beside the ground truth", class_="note")
        beside = [note, changed(row.ground_truth, row.prediction, whole=False)]
    return [*error, h("div", *own, class_="before"), h("div", *beside, class_="truth")]
