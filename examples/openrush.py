"""OpenRush's API (contract O1 to O18): tools for agents, paid with credits, and its dashboard.

    uvicorn openrush:app

Who may call, what it costs and how often is all in openrush.toml beside this file. The tools
are small, and work on what is sent to them alone.
"""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Security
from pydantic import BaseModel, Field, HttpUrl

from keyrush import Gate, KeyrushMiddleware, Principal, Refusal, Settings
from keyrush.apps import account_api, dashboard
from keyrush.fastapi import document, principal

CONFIG = Path(__file__).with_suffix(".toml")

Caller = Annotated[Principal, Security(principal)]
Domain = Annotated[str, Field(pattern=r"^([a-z0-9-]{1,63}\.)+[a-z]{2,63}$", max_length=253)]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Keywords = Annotated[list[Annotated[str, Field(min_length=1, max_length=120)]], Field(min_length=1)]
Urls = Annotated[list[HttpUrl], Field(min_length=1, max_length=100)]


class DomainIn(BaseModel):
    """A domain."""

    domain: Domain


class RankingIn(BaseModel):
    """A search result page, best result first."""

    results: Urls


class VisibilityIn(RankingIn):
    """A domain, and where to look for it."""

    domain: Domain


class KeywordIn(BaseModel):
    """A keyword."""

    keyword: Annotated[str, Field(min_length=1, max_length=120)]


class TextIn(BaseModel):
    """A text to find keywords in."""

    text: Text


class PageIn(BaseModel):
    """A page as its visitors read it."""

    title: Annotated[str, Field(max_length=1000)]
    text: Text


class SiteIn(BaseModel):
    """Pages by path."""

    pages: Annotated[dict[str, PageIn], Field(min_length=1, max_length=100)]


class CoverageIn(BaseModel):
    """Texts by domain, and the keywords to look for in them."""

    sites: Annotated[dict[Domain, Text], Field(min_length=1, max_length=20)]
    keywords: Keywords


class CompetitorsIn(CoverageIn):
    """A domain to compare the sites with, by what they write about."""

    domain: Domain


class DatasetIn(BaseModel):
    """A dataset that a tool has made."""

    dataset_id: str


tools = APIRouter(prefix="/v1/tools")


@tools.post("/inspect_domain")
async def inspect_domain(body: DomainIn, _: Caller) -> dict[str, Any]:
    """The parts of a domain."""
    labels = body.domain.split(".")
    return {"domain": body.domain, "tld": labels[-1], "labels": labels, "depth": len(labels)}


@tools.post("/discover_competitors")
async def discover_competitors(body: CompetitorsIn, _: Caller) -> dict[str, Any]:
    """The other sites, those that write about most of the keywords first."""
    found = {
        site: sorted(covered(text, body.keywords))
        for site, text in body.sites.items()
        if site != body.domain
    }
    ranked = sorted(found, key=lambda site: (-len(found[site]), site))
    return {"competitors": [{"domain": site, "shared": found[site]} for site in ranked]}


@tools.post("/research_keywords")
async def research_keywords(body: TextIn, caller: Caller, request: Request) -> dict[str, Any]:
    """The words of a text by how often they occur, kept as a dataset of the account."""
    counts = Counter(words(body.text))
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    dataset_id = f"ds_{hashlib.sha256(body.text.encode()).hexdigest()[:16]}"
    request.app.state.datasets[caller.account_id, dataset_id] = rows
    keywords = [{"keyword": word, "count": count} for word, count in rows]
    return {"dataset_id": dataset_id, "keywords": keywords}


@tools.post("/compare_keyword_coverage")
async def compare_keyword_coverage(body: CoverageIn, _: Caller) -> dict[str, Any]:
    """Which site covers which of the keywords."""
    return {
        "coverage": {
            site: {keyword: keyword in covered(text, body.keywords) for keyword in body.keywords}
            for site, text in body.sites.items()
        }
    }


@tools.post("/inspect_serp")
async def inspect_serp(body: RankingIn, _: Caller) -> dict[str, Any]:
    """How the domains share a result page."""
    hosts = [url.host for url in body.results]
    return {"results": len(hosts), "domains": dict(Counter(hosts))}


@tools.post("/inspect_search_visibility")
async def inspect_search_visibility(body: VisibilityIn, _: Caller) -> dict[str, Any]:
    """Where a domain stands, and the share of its places weighted by position."""
    places = [place for place, url in enumerate(body.results, 1) if url.host == body.domain]
    total = sum(1 / place for place in range(1, len(body.results) + 1))
    return {"positions": places, "visibility": round(sum(1 / p for p in places) / total, 4)}


@tools.post("/audit_site")
async def audit_site(body: SiteIn, _: Caller) -> dict[str, Any]:
    """What is wrong with the titles of a site."""
    titles = Counter(page.title.strip() for page in body.pages.values())
    issues = []
    for path, page in body.pages.items():
        title = page.title.strip()
        if not title:
            issues.append({"page": path, "issue": "title_missing"})
        elif titles[title] > 1:
            issues.append({"page": path, "issue": "title_not_unique"})
    return {"pages": len(body.pages), "issues": issues}


@tools.post("/inspect_keyword")
async def inspect_keyword(body: KeywordIn, _: Caller) -> dict[str, Any]:
    """What can be said of a keyword by itself."""
    parts = words(body.keyword)
    return {"keyword": body.keyword, "words": len(parts), "characters": len(body.keyword)}


@tools.post("/inspect_page")
async def inspect_page(body: PageIn, _: Caller) -> dict[str, Any]:
    """The figures of a page."""
    parts = words(body.text)
    return {"title_length": len(body.title), "words": len(parts), "unique": len(set(parts))}


@tools.post("/export_dataset")
async def export_dataset(body: DatasetIn, caller: Caller, request: Request) -> dict[str, str]:
    """A dataset of the account as CSV; another account's is not found."""
    rows = request.app.state.datasets.get((caller.account_id, body.dataset_id))
    if rows is None:
        caller.refuse(Refusal("not_found"))
    return {"csv": "\n".join(["keyword,count", *(f"{word},{count}" for word, count in rows)])}


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.lower())


def covered(text: str, keywords: list[str]) -> set[str]:
    """Those of the keywords whose words all occur in the text."""
    known = set(words(text))
    return {keyword for keyword in keywords if known.issuperset(words(keyword))}


def create_app(gate: Gate | None = None) -> FastAPI:
    """The app, behind the gate given or the one that openrush.toml and `KEYRUSH_*` describe."""
    app = FastAPI(title="OpenRush")
    document(app)
    app.state.datasets = {}
    app.include_router(tools)
    app.mount("/v1", account_api)
    app.mount("/dashboard", dashboard)
    settings = None if gate else Settings(config=CONFIG)
    app.add_middleware(KeyrushMiddleware, settings=settings, gate=gate)
    return app


app = create_app()
