"""The page in headless Chromium: quiet, alone, narrow enough for a phone, legible in both themes."""

from __future__ import annotations

import pytest

from tests.evals.page.chromium import binary

pytestmark = pytest.mark.skipif(binary() is None, reason="no Chromium here: apt-get install chromium")

# Every piece of text with what it is painted on, as (contrast, text, where).
CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, under) => {
    const a = top[3] ?? 1;
    return [0, 1, 2].map(i => top[i] * a + under[i] * (1 - a));
  };
  const behind = (element) => {
    const layers = [];
    for (let up = element; up; up = up.parentElement) layers.push(parse(getComputedStyle(up).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  document.querySelectorAll("details").forEach(one => one.open = true);
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, said = walk.currentNode.data.trim();
    if (!said || !element.checkVisibility() || element.closest("script, title, desc, .skip")) continue;
    const style = getComputedStyle(element), svg = element.tagName === "text";
    const rect = svg && element.previousElementSibling?.tagName === "rect" ? element.previousElementSibling : null;
    const under = rect ? parse(getComputedStyle(rect).fill) : behind(element);
    const ink = over(parse(svg ? style.fill : style.color), under);
    const [low, high] = [light(ink), light(under)].sort((a, b) => a - b);
    const where = element.tagName + "." + element.getAttribute("class");
    found.push([(high + 0.05) / (low + 0.05), said.slice(0, 40), where]);
  }
  return found;
})()"""


def test_quiet_and_alone(opened, report):
    assert opened.evaluate("document.readyState") == "complete"
    assert opened.named("Runtime.consoleAPICalled") == []
    assert opened.named("Runtime.exceptionThrown") == []
    assert opened.named("Log.entryAdded") == []
    asked = [event["request"]["url"] for event in opened.named("Network.requestWillBeSent")]
    assert asked == [report.resolve().as_uri()]


def test_the_policy_stops_what_an_answer_could_smuggle_in(opened):
    opened.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\"><p onclick=\"x=1\">')"
    )
    opened.evaluate("new Promise(done => setTimeout(done, 50))")
    assert any("Content Security Policy" in event["entry"]["text"] for event in opened.named("Log.entryAdded"))


def test_the_page_is_never_wider_than_its_window(opened):
    assert opened.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)") is None
    # Not innerWidth: a phone zooms out until all that overflows is in it.
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.width
    # Nothing sticks out but what scrolls in itself.
    out = opened.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav ul, svg, .skip')"
        f" && e.getBoundingClientRect().right > {opened.width + 1}).map(e => e.outerHTML.slice(0, 80))"
    )
    assert out == []


def test_names_are_not_cut_into_letters(opened):
    tall = opened.evaluate("Math.max(...[...document.querySelectorAll('tbody th .model')].map(e => e.offsetHeight))")
    assert 15 < tall < 80  # three lines at most


def test_text_is_legible(opened):
    found = opened.evaluate(CONTRAST)
    assert len(found) > 1000
    assert any(where == "text.t9" for *_, where in found)
    assert [text for text in found if text[0] < 4.5] == []


def test_a_chosen_theme_beats_that_of_the_system(browser, report):
    browser.open(report, dark=True)
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = browser.evaluate(paper)
    assert browser.evaluate("document.getElementById('theme').textContent") == "Theme: auto"
    press = "document.getElementById('theme').click()"
    browser.evaluate(press)
    light = browser.evaluate(paper)
    assert light != dark
    assert browser.evaluate(CONTRAST + ".filter(text => text[0] < 4.5)") == []
    browser.open(report, dark=True)  # remembered
    assert browser.evaluate(paper) == light
    browser.evaluate(press)
    browser.open(report, dark=False)
    assert browser.evaluate(paper) == dark
    browser.evaluate(press)
    assert browser.evaluate(paper) == light  # the system's again


def test_a_number_leads_to_its_answers(browser, report):
    browser.open(report)
    href = browser.evaluate("document.querySelector('#results .number').getAttribute('href')")
    seen = "document.querySelector(location.hash + ' td, ' + location.hash).checkVisibility()"
    assert browser.evaluate(f"document.querySelector('{href} td').checkVisibility()") is False
    browser.evaluate("document.querySelector('#results .number').focus()")
    browser.press("Enter", 13)
    browser.evaluate("new Promise(done => setTimeout(done, 100))")
    assert browser.evaluate("location.hash") == href
    assert browser.evaluate(f"document.querySelector('{href} td').checkVisibility()") is True
    place = browser.evaluate(f"document.querySelector('{href}').getBoundingClientRect().top")
    assert -2000 < place < 900
    square = browser.evaluate("document.querySelector('#depth svg a').getAttribute('href')")
    browser.open(report, hash_=square)
    assert browser.evaluate(seen) is True
    assert 0 <= browser.evaluate(f"document.querySelector('{square}').getBoundingClientRect().top") <= 900


def test_a_keyboard_reaches_numbers_points_and_tables(browser, report):
    browser.open(report)
    reached = []
    for _ in range(60):
        browser.press("Tab", 9)
        reached.append(
            browser.evaluate("document.activeElement.className?.baseVal ?? document.activeElement.className")
        )
    assert reached[0] == "skip"
    assert any("scroll" in name for name in reached)
    assert "number" in reached
    focusable = browser.evaluate(
        "[...document.querySelectorAll('#curves svg a, #depth svg a')].every(e => { e.focus();"
        " return document.activeElement === e; })"
    )
    assert focusable is True


def test_on_paper_it_is_light_and_whole(browser, report):
    browser.open(report, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print",
                 features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.querySelector('nav').checkVisibility()") is False
    assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
