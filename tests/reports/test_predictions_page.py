"""The page of predictions in a real browser: filters, links, both differences, and texts that are meant to break it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.prediction.rows import PredictionRow, newest
from ftdoctor.wording import HIDDEN, visible
from ftdoctor_reports import predictions
from ftdoctor_reports.predictions import tally

DRIVER = shutil.which("chromedriver") if shutil.which("chromium") else None
in_browser = pytest.mark.skipif(not DRIVER, reason="needs chromium and chromedriver")

ERROR = "RuntimeError: expected scalar type Float but found BFloat16"
HOSTILE = {
    "markup": "</script><script>window.hacked=1;document.title='x'</script><img src=x onerror='window.hacked=2'>"
    "</div></li></main><style>*{display:none}</style><!-- &amp; <a href='javascript:window.hacked=3'>x</a>",
    "control": "\n\n \x1b[31mred\x1b]0;title\x07 \x00\x00 \x7f\x85 \r\n a\rb \ufffe\uffff tab\t. ",
    "surrogates": "\ud800 \udfff\ud83d 😀 \udc00\ud800",
    "turned": "a\u202egnirts\u2066b\u200fc \u200bd\ufeffe \u2028 שלום \U000e0041 می\u200cخواهم 👩\u200d💻 x\u200dy",
    "lines": "\n" * 10_000,
    "megabyte": "x" * (1 << 20),
    "dense": "a\x00" * 30_000,
    "empty": "",
}


def row(step, sample, prediction, truth="It is 8.", **changes):
    base = dict(
        id=f"{step:016x}{sample:016x}", job="run-1", user="ada", epoch=step / 20, step=step, sample_index=sample,
        prompt=f"What is {sample} plus one?", ground_truth=truth, prediction=prediction,
        error=None if prediction is not None else ERROR, seconds=0.1, tokens=6, model_dtype="bfloat16",
        created_at=f"2026-11-21T10:00:{step:02}.000000+00:00", finish="stop", precision="bfloat16", batch_size=8,
    )  # fmt: skip
    return PredictionRow(**{**base, **changes})


def render(*rows):
    return predictions.render(tally.jobs(newest(rows)), "predictions.db")


COURSE = [
    row(0, 3, "the the the", "It is 4."),
    row(10, 3, "It is 7.", "It is 4."),
    row(20, 3, None, "It is 4."),
    row(30, 3, "It is 4.", "It is 4."),
    row(30, 5, "It is 4.", "It is 6.", finish="length", clipped=12, batch_size=1),
    row(40, 3, "It is 4.", "It is 4."),
    row(40, 5, "zebra", None),
]


def shown(browser):
    """The places of the predictions that are to be seen."""
    script = "return [...document.querySelectorAll('.prediction')].filter(p => p.checkVisibility()).map(p => p.id)"
    return browser.execute_script(script)


def choose(browser, name, value):
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", name)).select_by_value(value)


def lines(browser, selector):
    return [element.text for element in browser.find_elements("css selector", selector) if element.is_displayed()]


EXACT = """
const read = (node) => node.nodeType === 3 ? node.data
  : node.nodeName === 'DEL' ? ''
  : node.dataset.code ? node.dataset.code.split(' ').map(c => String.fromCodePoint(parseInt(c, 16))).join('')
  : [...node.childNodes].map(read).join('');
const found = read(document.querySelector(arguments[0] + ' .before .text'));
return Array.from({length: found.length}, (_, i) => found.charCodeAt(i));
"""


def units(text):
    """UTF-16 units: what a text is to a browser, lone surrogates included."""
    return list(memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H"))


@in_browser
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_whole_and_harmless(name, opened):
    """As the first prediction, as a change, as prompt, truth, job and error: nothing runs, every character is there."""
    evil = HOSTILE[name]
    small = evil[:2000]
    rows = [
        row(0, 0, evil, evil[::-1], prompt=small, job=small, user=small),
        row(10, 0, evil + " and more", small, prompt=small, job=small, model_dtype=small[:50]),
        row(20, 0, None, small, error=small or None, prompt=small, job=small),
    ]
    page = opened(render(*rows))
    title = page.title

    assert page.execute_script("return [window.hacked, document.querySelectorAll('img, script, style').length]") == [
        None,
        2,
    ]
    assert title.startswith("Predictions: ")
    assert shown(page) == ["sample-0-step-0", "sample-0-step-10", "sample-0-step-20"]
    for place, text in (("#sample-0-step-0", evil), ("#sample-0-step-10", evil + " and more")):
        assert page.execute_script(EXACT, place) == units(text)
    hidden = page.execute_script(
        "return [...document.querySelector('main').textContent].filter(c => /[\\p{Cc}\\p{Cs}]/u.test(c)).join('')"
    )
    assert set(hidden) <= {"\n", "\t"}


@in_browser
def test_what_is_hidden_is_seen(opened):
    """Escapes, marked as such; an override does not turn the text after it."""
    page = opened(render(row(0, 0, HOSTILE["control"] + HOSTILE["turned"])))

    assert lines(page, ".prediction .code") == [
        "\\x1b", "\\x1b", "\\x07", "\\x00\\x00", "\\x7f\\x85", "\\r", "\\r", "\\ufffe\\uffff",
        "\\u202e", "\\u2066", "\\u200f", "\\u200b", "\\ufeff", "\\u2028", "\\U000e0041", "\\u200d",
    ]  # fmt: skip
    assert "👩\u200d💻" in page.find_element("css selector", ".before .text").text
    assert "می\u200cخواهم" in page.find_element("css selector", ".before .text").text


@in_browser
def test_filters(opened):
    """By step, by sample, by text in prediction, prompt or truth, and back to all."""
    page = opened(render(*COURSE))
    every = shown(page)
    choose(page, "step", "30")

    assert len(every) == len(COURSE)
    assert shown(page) == ["sample-3-step-30", "sample-5-step-30"]
    assert page.current_url.endswith("#step-30")
    assert page.find_element("id", "told").text == "2 of 7 predictions"
    choose(page, "sample", "5")
    assert shown(page) == ["sample-5-step-30"]
    page.find_element("id", "clear").click()
    assert shown(page) == every
    assert page.find_element("id", "told").text == "7 predictions"
    for wanted, found in (
        ("ZEBRA", ["sample-5-step-40"]),
        ("5 plus", ["sample-5-step-30", "sample-5-step-40"]),
        ("the the", ["sample-3-step-0"]),
        ("bfloat16", ["sample-3-step-20"]),
        ("nowhere", []),
    ):
        page.find_element("id", "find").send_keys(wanted)
        assert shown(page) == found, wanted
        page.find_element("id", "clear").click()


@in_browser
def test_links_lead_to_samples_steps_and_predictions(opened):
    """A step filters; a sample or prediction that a filter hides is shown again."""
    page = opened(render(*COURSE), "#step-10")
    until(page, lambda: shown(page) == ["sample-3-step-10"])
    page.execute_script("location.hash = '#sample-5-step-40'")
    until(page, lambda: len(shown(page)) == len(COURSE))
    top = page.execute_script("return document.querySelector('#sample-5-step-40').getBoundingClientRect().top")
    page.find_element("css selector", "a[href='#step-0']").click()

    assert 0 <= top < 900
    until(page, lambda: shown(page) == ["sample-3-step-0"])
    targets = page.execute_script(
        "return [...document.querySelectorAll('a')].map(a => a.getAttribute('href').slice(1)).filter(id => !document.getElementById(id))"
    )
    assert targets == []


def until(page, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(page, 10).until(lambda _: condition())


@in_browser
def test_both_differences_and_the_text_alone(opened):
    """Since the last step that did not fail, and beside the truth; both as <ins> and <del>."""
    page = opened(render(*COURSE))

    def seen(place):
        return [
            (e.tag_name, e.text)
            for e in page.find_elements("css selector", f"{place} :is(ins, del)")
            if e.is_displayed()
        ]

    assert seen("#sample-3-step-10") == [("del", "the the the"), ("ins", "It is 7.")]
    assert seen("#sample-3-step-30") == [("del", "7"), ("ins", "4")]
    assert "changes since step 10" in lines(page, "#sample-3-step-30 .note")
    assert lines(page, "#sample-3-step-40 summary") == ["the same as at step 30"]
    page.find_element("id", "view-truth").click()
    assert seen("#sample-3-step-10") == [("del", "4"), ("ins", "7")]
    assert seen("#sample-3-step-30") == []
    page.find_element("id", "view-plain").click()
    assert [text for _, text in seen("#sample-3-step-10")] == ["It is 7."]
    style = "return getComputedStyle(document.querySelector('#sample-3-step-10 .before ins')).textDecorationLine"
    assert page.execute_script(style) == "none"


@in_browser
def test_it_is_used_by_the_keyboard_alone(opened):
    """Views, filters and clearing are reached by Tab; Escape clears."""
    from selenium.webdriver.common.keys import Keys

    page = opened(render(*COURSE))
    body = page.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    reached = []
    for _ in range(5):
        reached.append(page.switch_to.active_element.get_attribute("id"))
        page.switch_to.active_element.send_keys(Keys.TAB)
    find = page.find_element("id", "find")
    find.send_keys("zebra")
    few = shown(page)
    find.send_keys(Keys.ESCAPE)

    assert reached == ["view-before", "step", "sample", "find", "clear"]
    assert len(few) == 1
    assert len(shown(page)) == len(COURSE)


@in_browser
def test_it_reads_without_a_script(browser, tmp_path):
    """Everything is there, the views switch, and what would do nothing is not shown."""
    path = tmp_path / "page.html"
    path.write_text(render(*COURSE), encoding="utf-8")
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
        texts = lines(browser, ".prediction")
        filters = browser.find_element("id", "filters").is_displayed()
        browser.find_element("id", "view-truth").click()
        truth = lines(browser, "#sample-3-step-10 del")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    assert len(texts) == len(COURSE)
    assert not filters
    assert truth == ["4"]


@in_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(width, opened):
    """Not even a word of a megabyte."""
    long = "x" * 3000
    rows = [*COURSE, row(0, 9, long, long, prompt=long, job="run-1"), row(10, 9, None, error=long)]
    page = opened(render(*rows))
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        cut = "return [...document.querySelectorAll('.text, p, td, summary')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).length"
        assert page.execute_script(cut) == 0
        wide, seen = page.execute_script("let e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert width - 30 < seen <= width
        assert wide == seen
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@in_browser
def test_what_cannot_be_compared_is_said_and_whole(opened):
    """A prediction that differs in more words than are compared."""
    rows = [row(0, 0, "a b " * 5000, "c d " * 5000), row(10, 0, "b c " * 5000, "c d " * 5000)]
    page = opened(render(*rows))

    assert "too long to compare" in lines(page, "#sample-0-step-0 .facts span")
    assert page.execute_script(EXACT, "#sample-0-step-10") == units("b c " * 5000)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert any("counts as changed" in line for line in lines(page, "#sample-0-step-10 .note"))


def test_the_policy_allows_nothing_but_the_script_and_the_style_of_the_page():
    """By their hashes; nothing is loaded, and no attribute holds a script or a style."""
    page = render(*COURSE)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)

    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.search(r"<[^>]+ (src|on\w+|style)=", page)
    assert "http" not in page.replace("http-equiv", "")


def test_numbers_stand_in_words():
    """Verdict, failures, limits, clipped prompts, what is made otherwise than usual."""
    page = render(*COURSE)

    for words in (
        "step 40: 1 of 1 exact, mean similarity 1.00", "5 steps (0 to 40), 2 samples, 1 prediction failed", ERROR,
        "✗ 1 of 1", "cut at the limit of tokens", "prompt clipped by 12 tokens", "batch of 1", "no ground truth",
        "weights bfloat16, autocast bfloat16, batch of 8", "similarity 0.75", "✓ exact", "✗1",
    ):  # fmt: skip
        assert words in page, words


def test_a_failure_is_no_wrong_prediction():
    """It is counted apart, and nothing is drawn for a step at which all failed."""
    (job,) = tally.jobs([row(10, 0, "It is 8."), row(10, 1, None), row(20, 0, None), row(20, 1, None)])
    ten, twenty = job.steps

    assert (ten.judged, ten.exact, ten.failed, ten.similarity, ten.share) == (1, 1, 1, 1.0, 1.0)
    assert (twenty.judged, twenty.failed, twenty.similarity, twenty.share) == (0, 2, None, None)
    assert job.lost
    assert job.verdict() == "step 20: all 2 predictions failed"
    assert "all 2 predictions failed" in predictions.render([job])


def test_jobs_stand_below_one_another_the_newest_first():
    """Places of the others carry their number; no id is given twice."""
    older = [row(10, 0, "old", job="run-0", created_at="2026-11-20T10:00:00.000000+00:00")]
    page = render(*older, row(10, 0, "new"))
    ids = re.findall(r' id="(.*?)"', page)

    assert len(ids) == len(set(ids))
    assert page.index('id="sample-0-step-10"') < page.index('id="job-2-sample-0-step-10"')
    assert page.index(">new<") < page.index(">old<")
    assert '<select id="job">' in page


def test_a_prompt_or_truth_that_changed_is_said():
    """An evaluation set that was exchanged in the middle of a run."""
    page = render(row(0, 0, "a", "first truth", prompt="first prompt"), row(10, 0, "b", "second truth"))

    assert "At 1 step prompt or ground truth was another one; these are those of step 10." in page
    assert "first truth" in page
    assert "first prompt" in page


def test_a_row_with_nothing_is_no_empty_cell():
    """Neither prediction nor error."""
    assert "There is neither a prediction nor an error." in render(row(0, 0, None, error=None))


@given(st.text(st.characters()) | st.text(st.sampled_from("a\x00\x1b\ud800\u202e\u200d\ufe0f❤👩م\n\t\r")))
def test_visible_text_holds_nothing_that_is_hidden(text):
    """It can be encoded, and the joiners that are left belong to what stands before them."""
    seen = visible(text)

    assert seen.encode("utf-8").decode() == seen
    assert all(found[0] in ("\u200c", "\u200d", "\ufe0f", "\ufe0f\u200d") for found in HIDDEN.finditer(seen))
    assert visible(seen) == seen
