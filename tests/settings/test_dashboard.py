"""The settings of the dashboard: variables, the table `[dashboard]`, and mistakes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyrush import Settings
from keyrush.errors import ConfigurationError
from keyrush.settings.dashboard import MAX_FILE


def test_a_table_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O10: in the file they stand in a table of their own, and each variable comes before one."""
    file = tmp_path / "keyrush.toml"
    file.write_text(
        'public_url = "https://api.example.com/"\n'
        '[dashboard]\nname = "Fernpost"\nbrand = "#0f8a6b"\nlinks = {Docs = "https://d.example"}\n'
        "frame_ancestors = [\"'self'\"]\n"
    )
    monkeypatch.setenv("KEYRUSH_DASHBOARD_NAME", "Other")
    monkeypatch.setenv("KEYRUSH_DASHBOARD_COOKIE", "sb-token")
    settings = Settings(config=file)
    assert settings.dashboard_name == "Other"
    assert settings.dashboard_brand == "#0f8a6b"
    assert settings.dashboard_links == {"Docs": "https://d.example"}
    assert settings.dashboard_frame_ancestors == ("'self'",)
    assert settings.dashboard_cookie == "sb-token"
    assert settings.public_url == "https://api.example.com"
    assert settings.dashboard_at == "https://api.example.com/dashboard"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('brand = "red;}"', "KEYRUSH_DASHBOARD_BRAND"),
        ('nam = "x"', "dashboard_nam: is no setting; did you mean dashboard_name?"),
        ('links = {Docs = "javascript:alert(1)"}', "KEYRUSH_DASHBOARD_LINKS"),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, line: str, named: str) -> None:
    """What is wrong in the table is said by name and line."""
    file = tmp_path / "keyrush.toml"
    file.write_text(f'realm = "api"\n[dashboard]\n{line}\n')
    with pytest.raises(ConfigurationError) as error:
        Settings(config=file)
    assert named in str(error.value)
    assert f"{file}, line 3" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("public_url", url) for url in ("http://api.example.com", "ftp://x", "https://a/?q")),
        *(("public_url", url) for url in ("https://u:p@a", "https://a/#x", "api.example.com")),
        *(("dashboard_url", url) for url in ("http://far.example/d", "/dashboard")),
        *(("dashboard_name", name) for name in ("", "a\nb", "x" * 61)),
        *(("dashboard_brand", it) for it in ("red", "#12", "#4a54d1}", "url(x)", "oklch(1)")),
        *(("dashboard_links", it) for it in ({"": "/x"}, {"x": ""}, {"x": "//evil"})),
        *(("dashboard_language", it) for it in ("", "english", "en_US", 'en"', "../en")),
        *(("dashboard_top_up_url", it) for it in ("javascript:x", "//evil.example", "pay", 'a"b')),
        *(("dashboard_sign_in_url", it) for it in ("data:x", "https://a b", "/a\\b", "/<x>")),
        *(("dashboard_cookie", it) for it in ("a b", "a;b", "a=b", "é")),
        *(("dashboard_frame_ancestors", it) for it in ("*", "'none','self'", "a; script-src *")),
        ("dashboard_templates", "/nowhere"),
        ("dashboard_logo", "/nowhere.svg"),
        ("dashboard_css", "/nowhere.css"),
        ("dashboard_texts", "/nowhere.toml"),
    ],
)
def test_what_is_wrong_stops_the_start(name: str, value: Any) -> None:
    """O10: whatever would break a page, or a policy, is refused by name."""
    with pytest.raises(ConfigurationError, match=f"KEYRUSH_{name.upper()}"):
        Settings(**{name: value})


def test_files_are_looked_at(tmp_path: Path) -> None:
    """O10: a logo is an image, texts are texts, and none fills the memory."""
    logo, large, texts = tmp_path / "logo.exe", tmp_path / "large.svg", tmp_path / "pt.toml"
    logo.write_text("x")
    large.write_bytes(b"x" * (MAX_FILE + 1))
    for wrong in (
        {"dashboard_logo": logo},
        {"dashboard_logo": large},
        {"dashboard_css": tmp_path},
        {"dashboard_templates": logo},
    ):
        with pytest.raises(ConfigurationError, match="KEYRUSH_DASHBOARD"):
            Settings(**wrong)
    for text in ("[nav", "[nav]\nkeys = 1", 'nav = ["x"]', "\udcff"):
        texts.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigurationError, match="KEYRUSH_DASHBOARD_TEXTS"):
            Settings(dashboard_texts=texts)


@pytest.mark.parametrize(
    "values",
    [
        {"dashboard_brand": "oklch(0.5 0.17 270)"},
        {"dashboard_brand": "#FFF"},
        {"dashboard_sign_in_url": "/login?next={next}"},
        {"dashboard_top_up_url": "mailto:sales@example.com"},
        {"dashboard_frame_ancestors": "https://*.example.com,https://a.example:8443"},
        {"public_url": "http://localhost:8000"},
        {"public_url": ""},
        {"dashboard_logo": ""},
        {"dashboard_templates": ""},
        {"dashboard_cookie": ""},
    ],
    ids=str,
)
def test_what_is_right(values: dict[str, Any]) -> None:
    """O10: what pages take is taken, and empty is none."""
    settings = Settings(**values)
    for name, value in values.items():
        if value == "":
            assert getattr(settings, name) is None
