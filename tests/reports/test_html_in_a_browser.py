"""The page of a run in real Chromium: nothing runs that came from outside, filters and links work, everybody can use it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest

from ftdoctor.cells import Cell
from ftdoctor.results import CellResult, Outcome
from ftdoctor_reports import html, markdown, tally

EVERY = ("healthy", "findings", "interrupted", "hostile", "many")


def until(page, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(page, 10).until(lambda _: condition())


def squares(page):
    """The places of the squares that are to be seen, line by line."""
    seen = "return [...document.querySelectorAll('.heat a.cell')].filter(a => a.checkVisibility()).map(a => a.getAttribute('href').slice(1))"
    return page.execute_script(seen)


def lines(page):
    """The places of the lines of evidence that no filter hides."""
    seen = "return [...document.querySelectorAll('.probe tbody tr')].filter(r => !r.closest('[hidden]')).map(r => r.id)"
    return page.execute_script(seen)


def one(page, name):
    return page.find_element("id", name)


def check(page, outcome):
    page.find_element("css selector", f"#filters input[value={outcome}]").click()


def choose(page, selector, value):
    from selenium.webdriver.support.select import Select

    Select(page.find_element("css selector", selector)).select_by_visible_text(value)


def placed(run, **wanted):
    """The places of the results of a run with these values."""
    outcomes = wanted.pop("outcome", None)
    return [
        tally.place(r.probe, r.cell)
        for r in run.results
        if (not outcomes or r.outcome.value in outcomes) and all(r.cell.get(a) == v for a, v in wanted.items())
    ]


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_runs_and_nothing_goes_wrong(kind, make_run, page_of, opened):
    """Script, markup and megabytes are text; the console is silent; every cell has its square."""
    page = opened(page_of(kind))

    assert page.title == f"ftdoctor: {tally.verdict(make_run(kind))}"
    assert page.execute_script("return [window.hacked, document.querySelectorAll('img, style, script').length]") == [
        None,
        3,
    ]
    assert len(squares(page)) == len(make_run(kind).results)
    assert one(page, "told").text == f"{len(make_run(kind).results)} cells"


def test_values_that_are_no_plain_names_are_filtered_too(runs, opened):
    """With signs that mean something in a link, other letters, and more of them than a place holds."""
    values = ("a,b=c", "50%", "x y", "aaé" * 200, "aaü" * 200, "%zz")
    results = [CellResult("p", Cell.of({"odd": value}), Outcome.PASSED) for value in values]
    page = opened(html.render(runs.run(results)))
    places = squares(page)
    page.execute_script("document.querySelector('#axes').closest('details').open = true")

    assert len(set(places)) == len(values)
    for i in (0, 1, 2, 5):
        choose(page, "#axes select[name=odd]", values[i])
        assert squares(page) == lines(page) == [places[i]], values[i]
    one(page, "clear").click()
    one(page, "find").send_keys("50%")
    assert squares(page) == [places[1]]


def test_a_cell_that_was_examined_twice_is_filtered_twice(runs, opened):
    """Though the second stands under another name."""
    twice = [CellResult("p", Cell.of({"a": value}), Outcome.PASSED) for value in ("x", "y", "x")]
    page = opened(html.render(runs.run(twice)), "#?axis.a=x")

    assert squares(page) == lines(page) == ["p:a=x", "p:a=x~2"]


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("kind", ["findings", "hostile"])
def test_nothing_is_wider_than_the_screen(kind, width, page_of, opened):
    """Not even a word of a megabyte; tables scroll by themselves; nothing lies over something else."""
    page = opened(page_of(kind), width=width)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")

    wide, seen = page.execute_script("let e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert width - 30 < seen <= width
    assert wide == seen
    out = (
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, .unseen') && e.checkVisibility())"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert page.execute_script(out) == 0
    hidden = "return [...document.querySelectorAll('.heat a.cell')].filter(a => a.getBoundingClientRect().right > innerWidth).length"
    assert page.execute_script(hidden) == 0  # a long name does not push the squares of all probes away


def test_filters_by_outcome_axis_and_text(make_run, page_of, opened):
    """Together, in the matrix and in the evidence; told, and taken back."""
    run = make_run("findings")
    page = opened(page_of("findings"))
    every = squares(page)
    check(page, "failed")

    assert squares(page) == lines(page) == placed(run, outcome=["failed"])
    assert one(page, "told").text == f"{len(squares(page))} of {len(every)} cells"
    assert "Filtered" in one(page, "filtered").text
    check(page, "warned")
    assert squares(page) == placed(run, outcome=["failed", "warned"])
    page.execute_script("document.querySelector('#axes').closest('details').open = true")
    choose(page, "#axes select[name=vocabulary]", "128k")
    assert squares(page) == placed(run, outcome=["failed"], vocabulary="128k") != []
    one(page, "clear").click()
    assert squares(page) == lines(page) == every
    assert one(page, "told").text == f"{len(every)} cells"
    assert not one(page, "filtered").is_displayed()
    for words, found in (
        ("LABEL-alignment", [p for p in every if p.startswith("label-alignment:")]),
        ("vocabulary=128k", placed(run, vocabulary="128k")),
        ("model_type", placed(run, vocabulary="128k", outcome=["failed"])),
        ("no CUDA device", placed(run, outcome=["skipped"])),
        ("Scored Tokens", placed(run, adapter="lora_head", outcome=["failed"])),
        ("nowhere at all", []),
    ):
        one(page, "find").send_keys(words)
        assert squares(page) == lines(page) == found, words
        one(page, "clear").click()


def test_the_view_is_in_the_address(make_run, page_of, opened):
    """A filtered and aligned view can be linked; back leads back."""
    run = make_run("findings")
    page = opened(page_of("findings"), "#?outcome=failed%2Cwarned&axis.family=llama&find=tokenizer&columns=vocabulary")
    wanted = [p for p in placed(run, family="llama", outcome=["failed"]) if "tokenizer" in p]
    heads = [e.text for e in page.find_elements("css selector", ".heat thead th")]

    assert squares(page) == wanted != []
    assert heads == ["probe", "vocabulary=512", "vocabulary=128k", "no vocabulary"]
    one(page, "clear").click()
    until(page, lambda: page.execute_script("return location.hash") == "#?columns=vocabulary")
    check(page, "crashed")
    until(page, lambda: "outcome=" in page.execute_script("return location.hash"))
    few = squares(page)
    page.find_element("css selector", ".heat a.cell:not([hidden])").click()
    until(page, lambda: page.execute_script("return location.hash").startswith(f"#{few[0]}"))
    both = (
        "document.querySelector('#filters input').click(); document.querySelector('.heat a.cell:not([hidden])').click()"
    )
    page.execute_script(both)
    time.sleep(0.4)  # longer than the address waits for further changes
    assert not page.execute_script("return location.hash").startswith("#?")
    one(page, "clear").click()
    page.execute_script("location.hash = '#?outcome=warned'")
    until(page, lambda: squares(page) == placed(run, outcome=["warned"]))


def test_back_to_the_page_without_a_view_is_back_to_all_cells(page_of, opened):
    """The address and what is shown agree."""
    page = opened(page_of("findings"))
    every = squares(page)
    page.find_element("css selector", "nav a[href='#matrix']").click()
    check(page, "failed")
    until(page, lambda: page.execute_script("return location.hash") == "#?outcome=failed")
    page.back()
    until(page, lambda: squares(page) == every)

    assert page.execute_script("return location.hash") == ""
    assert not one(page, "filtered").is_displayed()


def test_a_link_to_a_cell_shows_it(page_of, opened):
    """Though it is folded, and though a filter hides it; a square leads to its line."""
    place = "token-mean-loss:dtype=bfloat16"
    page = opened(page_of("findings"), f"#{place}")
    inside = f"let r = document.getElementById('{place}').getBoundingClientRect(); return r.height > 0 && r.top >= 0 && r.bottom <= innerHeight"
    until(page, lambda: page.execute_script(inside))
    check(page, "warned")
    page.execute_script("document.querySelectorAll('.probe').forEach(d => { d.open = false; })")

    assert place not in squares(page)
    page.execute_script(f"location.hash = ''; location.hash = '#{place}'")
    until(page, lambda: page.execute_script(inside) and place in squares(page))
    page.execute_script("document.querySelectorAll('.probe').forEach(d => { d.open = false; })")
    page.find_element("css selector", f".heat a[href='#{place}']").click()
    until(page, lambda: page.execute_script(inside))
    assert page.execute_script(f"return document.getElementById('{place}').matches(':target')")
    page.execute_script("document.querySelectorAll('.probe').forEach(d => { d.open = false; })")
    page.find_element("css selector", ".heat a[href='#token-mean-loss']").click()
    until(page, lambda: page.execute_script("return document.getElementById('token-mean-loss').open"))


def test_squares_line_up_by_the_values_of_an_axis(make_run, page_of, opened):
    """Each in the column of its value, and back in the order of the run."""
    page = opened(page_of("findings"))
    before = squares(page)
    choose(page, "#align", "dtype")
    columns = "return [...document.querySelectorAll('.heat tbody tr:not(.area)')].flatMap(r => [...r.cells].slice(1).flatMap((c, i) => [...c.children].map(a => [i, a.getAttribute('href')])))"
    heads = [e.text.removeprefix("dtype=") for e in page.find_elements("css selector", ".heat thead th")][1:]

    found = page.execute_script(columns)
    assert heads == ["float32", "bfloat16", "float16", "no dtype"]
    assert len(found) == len(before)
    for column, place in found:
        assert f"dtype={heads[column]}" in place if column < 3 else "dtype=" not in place
    choose(page, "#align", "in the order of the run")
    assert squares(page) == before


def test_it_is_used_by_the_keyboard_alone(page_of, opened):
    """All squares are one stop of Tab; arrows go on from there, Enter leads to the evidence, Escape clears."""
    from selenium.webdriver.common.keys import Keys

    page = opened(page_of("findings"))
    find = one(page, "find")
    find.send_keys("tokenizer-reload")
    few = squares(page)
    find.send_keys(Keys.ESCAPE)

    def active():
        return page.execute_script("return (document.activeElement.getAttribute('href') ?? '').slice(1)")

    def press(*keys):
        for key in keys:
            page.switch_to.active_element.send_keys(key)
        return active()

    every = squares(page)
    assert len(few) == 6 < len(every)
    stops = "return [...document.querySelectorAll('.heat a.cell')].filter(a => a.tabIndex >= 0).length"
    assert page.execute_script(stops) == 1
    one(page, "clear").send_keys(Keys.TAB)
    stops = [active(), press(Keys.TAB), press(Keys.TAB)]
    assert stops == ["stack-imports", "tokenizer-reload", few[0]]
    press(Keys.ARROW_LEFT)
    assert active() == every[0] == "stack-imports:"
    assert press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT) == every[2]
    assert press(Keys.ARROW_LEFT) == every[1]
    assert press(Keys.ARROW_DOWN).startswith("quantized-load:")
    assert press(Keys.ARROW_UP, Keys.END) == [p for p in every if p.startswith("tokenizer-reload:")][-1]
    assert press(Keys.HOME) == "tokenizer-reload:family=llama,vocabulary=512"
    assert one(page, "about").text == "passed: tokenizer-reload family=llama vocabulary=512"
    press(Keys.ENTER)
    until(page, lambda: page.execute_script("return location.hash") == "#tokenizer-reload:family=llama,vocabulary=512")


COPIED = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"


def test_what_is_needed_in_a_ticket_is_copied(make_run, page_of, opened):
    """Command, culprit, machine, stack, a finding and the report as Markdown; said to whoever does not see the button."""
    run = make_run("findings")
    page = opened(page_of("findings"))
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})

    def copied(selector):
        button = page.find_element("css selector", selector)
        button.click()
        until(page, lambda: button.text == "copied")
        return page.execute_async_script(COPIED)

    assert copied("button[data-what='the report']") == markdown.render(run)
    assert one(page, "said").get_attribute("textContent") == "the report copied"
    assert copied("#finding-1 button[data-what='the finding']") == markdown.finding(run, run.findings[0])
    assert copied("#finding-1 button[data-what='the command']") == run.findings[0].again
    assert copied("#finding-1 button[data-what='the culprit']") == str(run.findings[0].culprit)
    assert copied("button[data-what='the stack']").startswith("Python 3.11.9 · torch 2.13.0+cpu · transformers 4.57.2")


def test_it_is_copied_where_there_is_no_clipboard_for_pages(make_run, page_of, opened):
    """By a selection, as in an old browser."""
    page = opened(page_of("findings"))
    page.execute_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.execute_script(
        "document.addEventListener('copy', () => { window.copied = getSelection().toString() || document.activeElement.value; })"
    )
    button = page.find_element("css selector", "#finding-1 button[data-what='the command']")
    button.click()
    until(page, lambda: button.text == "copied")

    assert page.execute_script("return window.copied") == make_run("findings").findings[0].again
    assert page.execute_script("return document.querySelectorAll('textarea').length") == 0
    assert page.execute_script("return document.activeElement.dataset.what") == "the command"


def test_it_reads_without_a_script(make_run, page_of, browser, tmp_path):
    """Everything is there, squares lead to what is folded, and what would do nothing is not shown."""
    path = tmp_path / "page.html"
    path.write_text(page_of("findings"), encoding="utf-8")
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
        text = browser.find_element("tag name", "main").text
        shown = [e.is_displayed() for e in browser.find_elements("css selector", "#filters, #about, button")]
        browser.find_element("css selector", ".heat a[href='#token-mean-loss:dtype=bfloat16']").click()
        opened = browser.find_element("id", "token-mean-loss:dtype=bfloat16").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    assert "✗ 3 findings, 1 accepted" in text
    assert "AttributeError: 'dict' object has no attribute 'model_type'" in text
    assert "this machine has no CUDA device" in text
    assert not any(shown)
    assert opened


AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(found => done(found.violations.map(
  v => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join(" | ")}`)));
"""
VIEWS = {"light": {}, "dark": {"dark": True}, "narrow": {"width": 390}, "narrow-dark": {"width": 390, "dark": True}}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["healthy", "findings", "interrupted", "hostile"])
def test_axe_finds_nothing_that_shuts_people_out(kind, view, page_of, opened, checkers):
    """Neither folded nor with everything open."""
    page = opened(page_of(kind), **VIEWS[view])
    page.execute_script((checkers / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))

    assert page.execute_async_script(AXE) == []
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.execute_async_script(AXE) == []


def test_axe_finds_nothing_among_very_many_cells_in_columns(page_of, opened, checkers):
    """2,000 of them, aligned by an axis: slow, because each square is judged."""
    page = opened(page_of("many"), "#?columns=dtype")
    page.execute_script((checkers / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    page.set_script_timeout(120)

    assert page.execute_async_script(AXE) == []


def test_the_marks_are_told_apart_without_colours(page_of, opened):
    """Each outcome has a sign of its own, and grounds that differ in lightness where they are seen as grey."""
    page = opened(page_of("many"))
    script = "return [...document.querySelectorAll('.chips .cell')].map(e => [e.textContent, getComputedStyle(e).backgroundColor])"
    marks, grounds = zip(*page.execute_script(script), strict=True)
    grey = {
        m: sum(w * int(c) for w, c in zip((0.299, 0.587, 0.114), g[g.index("(") + 1 : -1].split(",")[:3], strict=True))
        for m, g in zip(marks, grounds, strict=True)
    }

    assert set(marks) == set(tally.MARKS.values())
    assert grey["✗"] < grey["!"] - 60 < grey["✓"] - 60 + 40
    assert grey["☠"] < grey["✓"] - 100


def test_it_prints_what_a_reader_of_paper_needs(page_of, opened):
    """No filters and buttons; the traceback of a finding unfolded."""
    page = opened(page_of("findings"))
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = [e.is_displayed() for e in page.find_elements("css selector", "#filters, button, nav, #markdown")]
        trace = page.find_element("css selector", "#finding-1 .traceback")
        height = page.execute_script("return arguments[0].getBoundingClientRect().height", trace)
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})

    assert shown
    assert not any(shown)
    assert height > 50


POLICY = ("Inline style violates Content Security Policy", "Inline script violates Content Security Policy")
"""The validator does not compare hashes with what they are hashes of; Chromium does, and above its console is silent."""


def test_a_validator_finds_no_error(runs, page_of, checkers, tmp_path):
    """The Nu Html Checker, with warnings, on a page of each kind."""
    if not shutil.which("java"):
        pytest.skip("needs java")
    for kind in EVERY:
        (tmp_path / f"{kind}.html").write_text(page_of(kind), encoding="utf-8")
    (tmp_path / "nothing.html").write_text(html.render(runs.run([], outcome="unexamined")), encoding="utf-8")
    jar = checkers / "vnu-jar" / "build" / "dist" / "vnu.jar"
    done = subprocess.run(
        ["java", "-Xss8m", "-jar", str(jar), "--no-langdetect", "--format", "json", *map(str, sorted(tmp_path.glob("*.html")))],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stderr)["messages"]

    assert len(found) >= 6  # it has read them
    assert [
        (m["url"][-20:], m["message"], m.get("extract")) for m in found if not m["message"].startswith(POLICY)
    ] == []
