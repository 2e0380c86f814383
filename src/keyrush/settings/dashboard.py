"""The settings of the dashboard: `KEYRUSH_DASHBOARD_*`, or the table `[dashboard]`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from keyrush.core.notation import names_of
from keyrush.core.urls import is_safe

#: Bytes of a file that a brand brings; it is read once, and kept.
MAX_FILE = 512 * 1024

#: What a logo may be, by the end of its name.
LOGOS = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}

#: Where servers listen that are told nothing else.
_HERE = "http://127.0.0.1:8000"

_COLOUR = re.compile(
    r"#(?:[0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})"
    r"|oklch\([0-9.]{1,8}%? [0-9.]{1,8} [0-9.]{1,8}\)"
)
_LINK = re.compile(r"(?:https?://|mailto:|/(?!/))[\x21\x23-\x26\x28-\x3b\x3d\x3f-\x5b\x5d-\x7e]*")
_COOKIE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,3}")
_ANCESTOR = re.compile(r"'none'|'self'|https?://(?:\*\.)?[A-Za-z0-9.-]+(?::[0-9]{1,5})?")


def _listed(value: Any) -> Any:
    return list(names_of([value])) if isinstance(value, str) else value


def _linked(value: str | None) -> str | None:
    if value and (len(value) > 2000 or not _LINK.fullmatch(value)):  # noqa: PLR2004  # of a URL
        raise ValueError("must be an http or https URL, mailto:, or a path such as /sign-in")
    return value or None


def _readable(value: Path | None) -> Path | None:
    """The file, if it can be read, and is none that would fill the memory.

    Raises:
        ValueError: It can't be, or is.
    """
    if value is None or value == Path():
        return None
    try:
        with value.open("rb") as file:
            too_long = len(file.read(MAX_FILE + 1)) > MAX_FILE
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
    if too_long:
        raise ValueError(f"has more than {MAX_FILE // 1024} KiB")
    return value


Linked = Annotated[str | None, AfterValidator(_linked)]
File = Annotated[Path | None, AfterValidator(_readable)]
Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


class DashboardSettings(BaseSettings):
    """What the dashboard looks like, and how people sign in to it."""

    public_url: str | None = Field(
        None, description="where your API is reached, for examples and links to sign in"
    )
    dashboard_url: str | None = Field(
        None, description="where the dashboard is mounted; else at /dashboard of public_url"
    )
    dashboard_name: str = Field(
        "API", min_length=1, max_length=60, description="name of your product"
    )
    dashboard_logo: File = Field(None, description="SVG, PNG, WebP or JPEG file, beside the name")
    dashboard_brand: str = Field("#4a54d1", description="accent colour; made to be read on")
    dashboard_links: dict[str, str] = Field(
        {}, description="links at the foot of every page, by their words"
    )
    dashboard_css: File = Field(None, description="style sheet after the dashboard's own")
    dashboard_templates: Path | None = Field(
        None, description="folder whose templates stand in for the dashboard's"
    )
    dashboard_language: str = Field("en", description="language of texts, numbers and dates")
    dashboard_texts: File = Field(
        None, description="TOML file of texts in that language, or in other words"
    )
    dashboard_top_up_url: Linked = Field(None, description="where people buy credits")
    dashboard_plans_url: Linked = Field(None, description="where people compare plans")
    dashboard_sign_in_url: Linked = Field(
        None, description="where people sign in; {next} in it is the page they came from"
    )
    dashboard_sign_out_url: Linked = Field(None, description="where people sign out")
    dashboard_cookie: str | None = Field(
        None, description="cookie in which browsers send a session token of an issuer"
    )
    dashboard_frame_ancestors: Listed = Field(
        ("'none'",), description="who may show the dashboard in a frame: 'self', or origins"
    )

    @field_validator("public_url", "dashboard_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value and (not is_safe(value) or "?" in value):
            raise ValueError(
                "must be an https URL without login, query and fragment; http for this machine"
            )
        return value.rstrip("/") if value else None

    @property
    def dashboard_at(self) -> str:
        """Where the dashboard is, without a slash at its end; where nothing says so, at the place
        that a server on this machine has.
        """
        return self.dashboard_url or f"{self.public_url or _HERE}/dashboard"

    @field_validator("dashboard_name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("must be printable")
        return value

    @field_validator("dashboard_logo")
    @classmethod
    def _check_logo(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix.lower() not in LOGOS:
            raise ValueError(f"must end with {', '.join(LOGOS)}")
        return value

    @field_validator("dashboard_brand")
    @classmethod
    def _check_brand(cls, value: str) -> str:
        if not _COLOUR.fullmatch(value):
            raise ValueError("must be a colour such as #4a54d1, or oklch(0.5 0.17 270)")
        return value

    @field_validator("dashboard_links")
    @classmethod
    def _check_links(cls, value: dict[str, str]) -> dict[str, str]:
        for word, url in value.items():
            if not word.strip() or not word.isprintable():
                raise ValueError("each link needs its words")
            if not _linked(url):
                raise ValueError(f"{word}: there is no URL")
        return value

    @field_validator("dashboard_templates")
    @classmethod
    def _check_templates(cls, value: Path | None) -> Path | None:
        if value is None or value == Path():
            return None
        if not value.is_dir():
            raise ValueError("is no folder")
        return value.absolute()

    @field_validator("dashboard_language")
    @classmethod
    def _check_language(cls, value: str) -> str:
        if not _LANGUAGE.fullmatch(value):
            raise ValueError("must be a language such as en or pt-BR")
        return value

    @field_validator("dashboard_texts")
    @classmethod
    def _check_texts(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                texts = tomllib.loads(value.read_text("utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise ValueError(f"can't be read: {error}") from None
            _look_for_no_text(texts, "")
        return value

    @field_validator("dashboard_cookie")
    @classmethod
    def _check_cookie(cls, value: str | None) -> str | None:
        if value and not _COOKIE.fullmatch(value):
            raise ValueError("must be the name of a cookie")
        return value or None

    @field_validator("dashboard_frame_ancestors")
    @classmethod
    def _check_ancestors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(_ANCESTOR.fullmatch(one) for one in value):
            raise ValueError("must be 'none', 'self' or origins such as https://example.com")
        if "'none'" in value and len(value) > 1:
            raise ValueError("'none' stands alone")
        return value


def _look_for_no_text(table: dict[str, Any], at: str) -> None:
    """Look through a table of texts for what is none.

    Raises:
        ValueError: There is something; says where.
    """
    for name, value in table.items():
        if isinstance(value, dict):
            _look_for_no_text(value, f"{at}{name}.")
        elif not isinstance(value, str):
            raise ValueError(f"{at}{name} is no text")  # noqa: TRY004  # as pydantic has it
