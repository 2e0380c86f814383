"""The dashboard in a real browser: what everybody sees of it, with JavaScript and without, in both
themes and three widths.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from keyrush import Gate
from keyrush.apps import Dashboard
from tests.apps.dashboard.conftest import app_of
from tests.support.browser import WIDTHS, Chromium, _browser, chromium
from tests.support.serving import serve

__all__ = ["_browser", "chromium"]  # fixtures

pytestmark = pytest.mark.browser


def who(request: Request) -> str | None:
    """Whom the app around has signed in: nobody, until a cookie says so."""
    return request.cookies.get("who")


@pytest.fixture
def base(gate: Gate) -> Iterator[str]:
    """Where the dashboard is served."""
    with serve(app_of(Dashboard(gate, account_of=who, sign_in_url="/login"))) as url:
        yield f"{url}/dashboard"


@pytest.mark.parametrize("width", WIDTHS)
def test_what_everybody_sees(gate: Gate, base: str, chromium: Chromium, width: int) -> None:
    """O10: pages of states, of links and of signing out are accessible in every look."""
    tab = chromium.tab(base, theme=None, width=width)
    tab.open("/", 401)
    tab.check("signed-out")
    tab.open("/link/nothing", 404)
    tab.check("link-used")
    tab.open(f"/link/{gate.portal.link('acct_a')}")
    tab.check("link")
    tab.page.click("main button")
    tab.check("home")
    tab.open("/nope", 404)
    tab.check("not-found")
    tab.open("/sign-out")
    tab.check("sign-out")


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_signing_in_and_out(gate: Gate, base: str, chromium: Chromium, script: bool) -> None:
    """O10: a link is used by one press, here and by nobody after; signing out ends it."""
    link = f"/link/{gate.portal.link('acct_a')}"
    tab, late = chromium.tab(base, script=script), chromium.tab(base)
    tab.open(link)
    tab.page.get_by_role("button", name="Sign in").click()
    assert tab.page.url == f"{base}/"
    assert tab.page.get_by_text("acct_a").is_visible()
    late.open(link, 404)
    tab.page.get_by_role("link", name="Sign out").click()
    tab.page.get_by_role("button", name="Sign out").click()
    assert tab.page.get_by_role("heading", name="You are not signed in").is_visible()
    assert gate.portal.sessions() == []
    assert tab.noise == []


#: Sets each brand of a grid over all hues, and gives the colours that come of it, as pixels: of
#: text on each ground that it stands on. Nothing else of the page is there to be styled anew each
#: time, and the pixels are read all at once, since each look at a canvas waits for it.
_BRANDS = """() => {
    const names = ["--accent", "--accent-text", "--surface", "--bg", "--sunken", "--accent-tint"];
    document.body.replaceChildren();
    const probes = names.map(name => {
        const probe = document.body.appendChild(document.createElement("div"));
        probe.style.color = `var(${name})`;
        return getComputedStyle(probe);
    });
    const brands = [];
    for (let hue = 0; hue < 360; hue += 10)
        for (const light of [0, .2, .4, .55, .7, .85, 1])
            for (const chroma of [0, .05, .12, .2, .3])
                brands.push(`oklch(${light} ${chroma} ${hue})`);
    const canvas = new OffscreenCanvas(names.length, brands.length);
    const paper = canvas.getContext("2d", {willReadFrequently: true});
    brands.forEach((brand, row) => {
        document.documentElement.style.setProperty("--brand", brand);
        probes.forEach((probe, column) => {
            paper.fillStyle = probe.color;
            paper.fillRect(column, row, 1, 1);
        });
    });
    const read = paper.getImageData(0, 0, names.length, brands.length).data;
    return brands.map((brand, row) => [brand, Object.fromEntries(names.map((name, column) => {
        const at = 4 * (row * names.length + column);
        return [name, [...read.slice(at, at + 3)]];
    }))]);
}"""

#: Text, and the grounds that it stands on.
_PAIRS = [
    ("white", "--accent"),
    *(("--accent-text", one) for one in ("--surface", "--bg", "--sunken", "--accent-tint")),
]


def contrast(one: list[int], other: list[int]) -> float:
    """How two colours differ in lightness (WCAG 2.2, contrast ratio)."""

    def luminance(colour: list[int]) -> float:
        parts = [part / 255 for part in colour]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_any_brand_can_be_read(base: str, chromium: Chromium, theme: str) -> None:
    """O10: whatever accent is chosen, its text and the text on it have 4.5:1 or more."""
    tab = chromium.tab(base, theme=theme)
    tab.open("/", 401)
    found = tab.page.evaluate(_BRANDS)
    assert len(found) == 36 * 7 * 5
    assert len({tuple(colours["--accent"]) for _, colours in found}) > 36 * 5
    poor = [
        (brand, text, ground)
        for brand, colours in found
        for text, ground in _PAIRS
        if contrast((colours | {"white": [255] * 3})[text], colours[ground]) < 4.5
    ]
    assert poor == []


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_the_theme(base: str, chromium: Chromium, script: bool) -> None:
    """O10: light and dark are as the system has it, or as was chosen, from the first paint on."""
    dark, light = "rgb(11, 12, 15)", "rgb(247, 248, 249)"
    seen = "getComputedStyle(document.body).backgroundColor"
    tab = chromium.tab(base, theme="dark", script=script)
    tab.open("/", 401)
    assert tab.page.evaluate(seen) == dark
    tab.page.get_by_role("button", name="Light", exact=True).click()
    assert tab.page.evaluate(seen) == light
    tab.open("/nope", 404)
    assert tab.page.evaluate(seen) == light
    tab.page.get_by_role("button", name="As the system").click()
    assert tab.page.evaluate(seen) == dark
    assert tab.noise == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same-site", "cross-site"])
def test_a_form_from_elsewhere(gate: Gate, base: str, chromium: Chromium, host: str) -> None:
    """O10: a page of another origin can send the form, with a good token even, and of the same
    site with the cookie, too: nothing is changed.
    """
    tab = chromium.tab(base)
    tab.open(f"/link/{gate.portal.link('acct_a')}")
    tab.page.click("main button")
    tab.open("/sign-out")
    token = tab.page.locator("main [name=_token]").input_value()
    with serve(_thief(base, token)) as elsewhere:
        tab.page.goto(elsewhere.replace("127.0.0.1", host))
        tab.page.click("button")
        assert tab.page.get_by_role("heading", name="Nothing was changed").is_visible()
    assert len(gate.portal.sessions()) == 1


def _thief(base: str, token: str) -> object:
    page = (
        f'<form method="post" action="{base}/sign-out">'
        f'<input name="_token" value="{token}"><button>Win a prize</button></form>'
    )

    async def show(_: Request) -> HTMLResponse:
        return HTMLResponse(page)

    return Starlette(routes=[Route("/", show)])


def test_what_was_typed_survives(gate: Gate, base: str, chromium: Chromium) -> None:
    """O10: a form that was open when its session ended is sent again by one press in its tab, once
    somebody has signed in in another.
    """
    tab = chromium.tab(base)
    tab.open(f"/link/{gate.portal.link('acct_a')}")
    tab.page.click("main button")
    tab.open("/sign-out")
    (session,) = gate.portal.sessions()
    gate.portal.end(session.id)
    tab.page.get_by_role("button", name="Sign out").click()
    tab.check("session-over")
    other = tab.context.new_page()
    other.goto(f"{base}/link/{gate.portal.link('acct_a')}")
    other.click("main button")
    assert len(gate.portal.sessions()) == 1
    tab.page.get_by_role("button", name="Send it again").click()
    tab.page.wait_for_url(f"{base}/")
    assert gate.portal.sessions() == []
