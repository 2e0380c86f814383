"""What makes the dashboard a product's own: name, logo, links, and files of its own."""

from __future__ import annotations

from typing import NamedTuple

from keyrush.apps.dashboard.assets import Assets
from keyrush.settings.dashboard import DashboardSettings


class Brand(NamedTuple):
    """What templates show of it; files by the names that `Assets` knows them by."""

    name: str
    links: tuple[tuple[str, str], ...]  #: words and URL
    logo: str | None
    icon: str
    css: str | None
    top_up_url: str | None
    sign_out_url: str | None


def brand_of(settings: DashboardSettings, assets: Assets) -> Brand:
    """The brand that the settings say."""
    return Brand(
        settings.dashboard_name,
        tuple(settings.dashboard_links.items()),
        assets.logo,
        assets.logo or "icon.svg",
        "own.css" if assets.has_own_css else None,
        settings.dashboard_top_up_url,
        settings.dashboard_sign_out_url,
    )
