"""A real browser for the dashboard: Debian's Chromium through Playwright.

It is a package of the system's, not of Python's: where it is missing, its tests are skipped. A
module's tests share one; meanwhile its thread has an event loop, so they run no other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

#: Where pictures of pages go.
PICTURES = Path(__file__).parents[2] / "build" / "screenshots"

#: What each page is looked at in: at each width in CSS pixels, in each theme.
WIDTHS = (360, 768, 1280)
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

#: The width at which axe is not asked, which is most of what a look costs: tables are either rows,
#: as where it is wide, or cards, as where it is narrow.
_BETWEEN = 768

#: The width at which all colours are looked at, which are most of what axe costs. In a narrower
#: window other colours are only around what the page has to say: there are tabs, no side bar.
_WIDEST = 1280
_AROUND = ["body > .skip", "header", "footer"]

#: What comes again and again in a list or chart, and is not looked at each time.
_REPEATED = [
    *(".bins tr:nth-child(n+4)", "[data-feed] tr:nth-child(n+7)", "tbody tr:nth-child(n+13)"),
    *("option:nth-child(n+4)", "svg.plot g"),
]

#: Nothing but the pages is asked for, by nobody.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")

#: WCAG 2.2 AA, and what axe holds to be good besides.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

#: Those of axe's rules that look at colours, which are all that a theme changes.
_OF_COLOURS = ["color-contrast", "link-in-text-block"]

#: Of what axe has to say only what is wrong, and no style sheet fetched once more.
_RUN_AXE = """async ([where, which]) => (await axe.run(
    where, {...which, resultTypes: ["violations"], preload: false})).violations.map(one => [
    one.id, one.help, one.nodes.map(node => [node.target.join(" "), node.failureSummary])])"""

#: What is wider than its box, which cuts it off, and cells whose parts would drift apart where
#: tables are cards.
_MISLAID = """() => [
    ...[...document.querySelectorAll(".card, .tw, .stats > *, main")].filter(
        one => one.scrollWidth > one.clientWidth),
    ...[...document.querySelectorAll(".cards td[data-label]")].filter(
        one => [...one.childNodes].filter(
            part => part.nodeType === Node.ELEMENT_NODE || part.textContent.trim()).length > 1),
].map(one => one.outerHTML.slice(0, 200))"""

#: Says of what the policy has forbidden as browsers say it of a fault in a script.
_TELL_VIOLATIONS = """document.addEventListener("securitypolicyviolation", event =>
    console.error("forbidden:", event.violatedDirective, event.blockedURI, event.sourceFile))"""


class Tab:
    """A page in a context of its own, at a base URL, of a width and in a theme, or for `check` in
    each. What goes wrong in it is in `noise`.
    """

    def __init__(self, context: BrowserContext, base: str, width: int, theme: Any) -> None:
        self.context = context
        self.base = base
        self.noise: list[str] = []
        self._width = width
        self._themes = THEMES if theme is None else (theme,)
        context.add_init_script(_TELL_VIOLATIONS)
        self.page: Page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.noise.append(f"{self.page.url}: {error}"))

    def _heard(self, message: Any) -> None:
        # That a page says 404 is no fault of it.
        is_status = "the server responded with a status of" in message.text
        if message.type in {"error", "warning"} and not is_status:
            self.noise.append(f"{self.page.url}: {message.text}")

    def open(self, path: str, status: int = 200) -> Page:
        """Open a path, which is answered with `status`."""
        answer = self.page.goto(self.base + path)
        assert answer is not None
        assert answer.status == status, (path, answer.status)
        return self.page

    def show(self, name: str) -> None:
        """Take a picture of what is seen of the page, for the documents."""
        folder = PICTURES / "docs"
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png")

    def check_fit(self, name: str) -> None:
        """Nothing of the page is wider than the window or its box, and no cell falls apart."""
        wide, window = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= window, (name, self._width, wide)
        assert self.page.evaluate(_MISLAID) == [], (name, self._width)

    def check(self, name: str) -> None:
        """Hold the page as it stands to all that any must be, and take a picture of it: axe finds
        nothing, nothing is wider than the window or its box, nothing was forbidden, no script has
        failed. It stands in the first theme afterwards.
        """
        PICTURES.mkdir(parents=True, exist_ok=True)
        first, *others = self._themes
        self._take_picture(name, first)
        if self._width != _BETWEEN:
            self.page.evaluate(_AXE)
            is_whole = self._width == _WIDEST
            off = {} if is_whole else {rule: {"enabled": False} for rule in _OF_COLOURS}
            self._ask_axe(name, first, {"runOnly": {"type": "tag", "values": _RULES}, "rules": off})
            if not is_whole:
                self._look_at_colours(name, first)
        for theme in others:
            self.page.emulate_media(color_scheme=theme)
            self._take_picture(name, theme)
            if self._width != _BETWEEN:
                self._look_at_colours(name, theme)
            self.page.emulate_media(color_scheme=first)
        self.check_fit(name)
        assert self.noise == [], (name, self._width, self.noise)

    def _take_picture(self, name: str, theme: str) -> None:
        path = PICTURES / f"{name}-{theme}-{self._width}.png"
        self.page.screenshot(path=path, full_page=True)

    def _look_at_colours(self, name: str, theme: str) -> None:
        which = {"runOnly": {"type": "rule", "values": _OF_COLOURS}}
        self._ask_axe(name, theme, which, None if self._width == _WIDEST else _AROUND)

    def _ask_axe(
        self, name: str, theme: str, which: object, among: list[str] | None = None
    ) -> None:
        where = {"include": among or ["html"], "exclude": _REPEATED}
        found = self.page.evaluate(_RUN_AXE, [where, which])
        assert found == [], (name, theme, self._width, found)


class Chromium:
    """The browser. Each tab is somebody else's."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def tab(
        self,
        base: str,
        *,
        theme: Any = "light",
        width: int = 1280,
        script: bool = True,
        **options: Any,
    ) -> Tab:
        """A new tab at a base URL, by default with JavaScript; with a theme of None, `check` looks
        at both. `options` are those of a context of Playwright's.
        """
        usual = {
            "viewport": {"width": width, "height": 800},
            "color_scheme": theme or THEMES[0],
            "java_script_enabled": script,
            "locale": "en-GB",
            "timezone_id": "Europe/Lisbon",
            "reduced_motion": "reduce",
        }
        context = self._browser.new_context(**{**usual, **options})
        context.set_default_timeout(60_000)
        self._contexts.append(context)
        return Tab(context, base, width, theme)

    def close_tabs(self) -> None:
        """Close all that are open."""
        while self._contexts:
            self._contexts.pop().close()


@pytest.fixture(scope="module")
def _browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is missing; make chromium installs it, on Debian and its kin")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def chromium(_browser: Browser) -> Iterator[Chromium]:
    """A browser whose tabs are closed with the test."""
    made = Chromium(_browser)
    yield made
    made.close_tabs()
