"""Settings: where they come from, what they allow, and what is said of a wrong one."""

from __future__ import annotations

import ipaddress
import json
import tempfile
import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyrush import ConfigurationError, Settings
from keyrush.authentication.keyring import Hashing
from keyrush.core.model import Limit, Plan, Quota
from keyrush.core.policy import Rule
from keyrush.core.refusal import Refusal
from keyrush.settings import sources
from keyrush.settings.mistakes import unknown_variables
from keyrush.settings.tables import PlanTable
from keyrush.wire.refusals import Body

SECRET = "hunter2-hunter2-hunter2-hunter2-x"
OLDER = "an older secret of 32 bytes or more"

Toml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toml:
    """Writes the file that `KEYRUSH_CONFIG` names."""

    def write(text: str) -> Path:
        path = tmp_path / "keyrush.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("KEYRUSH_CONFIG", str(path))
        return path

    return write


def wrong(**values: Any) -> str:
    """The message that says why the settings are refused."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(**values)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def own_body(refusal: Refusal, text: str) -> tuple[str, bytes]:
    """A body of a user's own, for `KEYRUSH_ERRORS`."""
    return "text/plain", f"{refusal.status} {text}".encode()


# --- where they come from ------------------------------------------------------------------------


def test_defaults() -> None:
    """The defaults that the documentation names."""
    settings = Settings()
    shown = {name: getattr(settings, name) for name in Settings.model_fields if name != "plans"}
    assert shown == {
        "config": None,
        "store_url": "sqlite:///keyrush.db",
        "limiter_url": "store",
        "limiter_mode": "leased",
        "limiter_outage": "local",
        "usage_durability": "batched",
        "activity": "all",
        "activity_days": 30,
        "activity_address": "prefix",
        "pepper": (),
        "key_prefix": "kr",
        "key_environments": ("live", "test"),
        "unmetered_environments": ("test",),
        "public_paths": ("/health",),
        "optional_paths": (),
        "unruled": "any_key",
        "root_path": "",
        "preflight": "refuse",
        "credential_headers": ("authorization", "x-api-key"),
        "websocket_protocol": "",
        "hide_credentials": False,
        "scopes": (),
        "cache_size": 65_536,
        "cache_ttl": 5,
        "stale_if_error": 60,
        "verify": "argon2id",
        "argon2_time_cost": 2,
        "argon2_memory_cost": 19_456,
        "argon2_parallelism": 1,
        "argon2_slots": None,
        "headers": "x-ratelimit",
        "errors": "documented",
        "gated_status": "403",
        "keys_url": None,
        "realm": "api",
        "trusted_proxies": (),
        "rules": (),
        "anonymous": None,
        "issuers": (),
        "resources": (),
        "mcp_max_body": 1_048_576,
        "sources": (),
        "public_url": None,
        "dashboard_url": None,
        "dashboard_name": "API",
        "dashboard_logo": None,
        "dashboard_brand": "#4a54d1",
        "dashboard_links": {},
        "dashboard_css": None,
        "dashboard_templates": None,
        "dashboard_language": "en",
        "dashboard_texts": None,
        "dashboard_top_up_url": None,
        "dashboard_plans_url": None,
        "dashboard_sign_in_url": None,
        "dashboard_sign_out_url": None,
        "dashboard_cookie": None,
        "dashboard_frame_ancestors": ("'none'",),
    }


def test_built_in_plans() -> None:
    """R6: Starter, Pro and Business limit as documented, the first is the default; modules and
    prices are those of one service, and in no plan that it has not named.
    """
    plans = Settings().catalog().plans
    assert list(plans) == ["starter", "pro", "business"]
    assert plans == {
        "starter": Plan("starter", (Limit(100, 60),), Quota(500_000)),
        "pro": Plan("pro", (Limit(500, 60),), Quota(3_000_000)),
        "business": Plan("business", (Limit(2000, 60),)),
    }
    assert Settings().catalog().modules == frozenset()


def test_argument_then_environment_then_file(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over the environment, which wins over the TOML file."""
    toml('key_prefix = "fromfile"\nrealm = "file"\nverify = "fingerprint"')
    monkeypatch.setenv("KEYRUSH_KEY_PREFIX", "fromenv")
    monkeypatch.setenv("KEYRUSH_REALM", "env")
    settings = Settings(key_prefix="fromcode")
    assert (settings.key_prefix, settings.realm, settings.verify) == (
        "fromcode",
        "env",
        "fingerprint",
    )


def test_file_by_argument(tmp_path: Path) -> None:
    """The file may be an argument, too."""
    path = tmp_path / "x.toml"
    path.write_text('realm = "mcp"')
    assert Settings(config=path).realm == "mcp"
    assert Settings(config=str(path)).realm == "mcp"


@pytest.mark.parametrize("variable", ["KEYRUSH_PLANS", "keyrush_plans", "Keyrush_Plans"])
@pytest.mark.parametrize(
    "plans",
    [{"free": {"limits": "5/minute"}}, {"starter": {}}, {"starter": {"limits": "5/minute"}}],
)
def test_tables_are_never_mixed(
    toml: Toml, monkeypatch: pytest.MonkeyPatch, variable: str, plans: dict[str, Any]
) -> None:
    """Plans of the environment, or of an argument, stand in place of all of the file's, and none
    of them keeps a line of the one that had its name.
    """
    toml('[plans.starter]\nmonthly_quota = 9\nlimits = "7/minute"\n[plans.pro]\n')
    wanted = {name: PlanTable(**table) for name, table in plans.items()}
    for argument in (plans, wanted):
        assert Settings(plans=argument).plans == wanted
    monkeypatch.setenv(variable, json.dumps(plans))
    assert Settings().plans == wanted
    other = {"other": {"limits": "1/minute"}}
    assert list(Settings(plans=other).plans) == ["other"]


def test_rules_of_the_environment_replace_those_of_the_file(
    toml: Toml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do rules, which are a list of tables."""
    toml('[[rules]]\npath = "/a"\nscopes = ["a"]\n[[rules]]\npath = "/b"\n')
    monkeypatch.setenv("KEYRUSH_RULES", '[{"path": "/c"}]')
    assert Settings().catalog().rules == (Rule("/c"),)


# --- the file that is found ---------------------------------------------------------------------


def test_file_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `keyrush.toml` in the working folder is used without being named; `config` is its path."""
    monkeypatch.chdir(tmp_path)
    assert Settings().config is None
    (tmp_path / "keyrush.toml").write_text('realm = "here"')
    assert Settings().realm == "here"
    assert Settings().config == tmp_path / "keyrush.toml"


def test_file_that_is_named_comes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is named stands in its place, and an empty name is for none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keyrush.toml").write_text('realm = "here"')
    (tmp_path / "other.toml").write_text('verify = "fingerprint"')
    assert Settings(config="other.toml").realm == "api"
    assert Settings(config=None).realm == "api"
    for name in ("KEYRUSH_CONFIG", "keyrush_config"):
        monkeypatch.setenv(name, "other.toml")
        assert (Settings().realm, Settings().verify) == ("api", "fingerprint")
        monkeypatch.setenv(name, "")
        assert (Settings().realm, Settings().config) == ("api", None)
        monkeypatch.delenv(name)


def test_folder_with_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder called keyrush.toml is no file that could be meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keyrush.toml").mkdir()
    assert Settings().config is None


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_files_of_any_editor(toml: Toml, mark: bytes, end: bytes) -> None:
    """A byte order mark, and the ends of lines that Windows writes, are no part of the text."""
    toml("").write_bytes(mark + end.join([b'realm = "a"', b"[plans.p]", b"per = 'account'"]))
    assert Settings().realm == "a"
    assert Settings().catalog().plans["p"].per == "account"


@pytest.mark.parametrize("config", [5, ["x"], "a\0b", b"x"])
def test_config_that_is_no_path(config: Any) -> None:
    """What can't be the path of a file is refused by the name of the setting."""
    with pytest.raises(ConfigurationError, match=r"\AKEYRUSH_CONFIG: "):
        Settings(config=config)


def test_file_that_names_a_file(toml: Toml) -> None:
    """`config` has no effect in a file, so it is refused there."""
    path = toml('config = "other.toml"')
    assert wrong() == f"config: {path} can't name another file"


# --- values of every kind -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("KEY_ENVIRONMENTS", "prod, stage", "key_environments", ("prod", "stage")),
        ("KEY_ENVIRONMENTS", "", "key_environments", ()),
        ("PUBLIC_PATHS", "/health,GET /v1/capabilities", "public_paths",
         ("/health", "GET /v1/capabilities")),
        ("SCOPES", "read:articles,read:entities", "scopes", ("read:articles", "read:entities")),
        ("CACHE_TTL", "0.5", "cache_ttl", 0.5),
        ("CACHE_SIZE", "0", "cache_size", 0),
        ("KEYS_URL", "", "keys_url", None),
        ("TRUSTED_PROXIES", "10.0.0.0/8,::1", "trusted_proxies", ("10.0.0.0/8", "::1")),
    ],
)  # fmt: skip
def test_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: object
) -> None:
    """Lists are written with commas; an empty list is a list."""
    monkeypatch.setenv(f"KEYRUSH_{name}", text)
    assert getattr(Settings(), field) == value


def test_peppers_are_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """O22: peppers are a list, newest first, that no way of printing the settings shows."""
    monkeypatch.setenv("KEYRUSH_PEPPER", f"{SECRET}, {OLDER}")
    settings = Settings()
    assert [pepper.get_secret_value() for pepper in settings.pepper] == [SECRET, OLDER]
    for shown in (repr(settings), str(settings), str(settings.model_dump()),
                  settings.model_dump_json()):  # fmt: skip
        assert SECRET not in shown
        assert OLDER not in shown


def test_plans_and_rules_from_the_file(toml: Toml) -> None:
    """Plans and rules are tables; the plans of the file are all there are."""
    toml(
        """
        public_paths = ["/health", "GET /v1/capabilities"]
        [plans.free]
        limits = ["60/minute", "1000/hour", "10000/day"]
        per = "account"
        monthly_quota = 0
        on_exceed = "block"
        [plans.big]
        modules = ["meta"]
        overage_price = 0.25
        [[rules]]
        path = "/v1/tools/inspect_domain"
        methods = ["POST"]
        scopes = ["tools"]
        credits = 3
        tool = "inspect_domain"
        """
    )
    settings = Settings()
    limits = (Limit(60, 60), Limit(1000, 3600), Limit(10_000, 86_400))
    assert settings.catalog().plans == {
        "free": Plan("free", limits, Quota(0, "block"), per="account"),
        "big": Plan("big", modules=frozenset({"meta"}), overage_price=Decimal("0.25")),
    }
    post = frozenset({"POST"})
    assert settings.catalog().rules == (
        Rule("/v1/tools/inspect_domain", post, ("tools",), credits=3, tool="inspect_domain"),
    )
    assert settings.catalog().known_scopes == {"tools"}
    assert settings.public_paths == ("/health", "GET /v1/capabilities")


def test_plans_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables may be JSON in the environment."""
    monkeypatch.setenv("KEYRUSH_PLANS", json.dumps({"free": {"limits": "5/minute"}}))
    assert Settings().catalog().plans == {"free": Plan("free", (Limit(5, 60),))}


@pytest.mark.parametrize(
    ("table", "limits"),
    [
        ("", ()),
        ("limits = []", ()),
        ('limits = "unlimited"', ()),
        ('limits = "0/minute"', (Limit(0, 60),)),
        ('limits = "0/minute;10/hour"', (Limit(0, 60), Limit(10, 3600))),
    ],
)
def test_zero_is_not_unlimited(toml: Toml, table: str, limits: tuple[Limit, ...]) -> None:
    """Traps: 0 admits none, no limits are unlimited, and neither is taken for the other."""
    toml(f"[plans.p]\n{table}")
    assert Settings().catalog().plans["p"].limits == limits


@pytest.mark.parametrize(("line", "quota"), [("", None), ("monthly_quota = 0", Quota(0))])
def test_no_quota_is_not_zero(toml: Toml, line: str, quota: Quota | None) -> None:
    """R12: a plan without a quota and one with a quota of 0 are different."""
    toml(f"[plans.p]\n{line}")
    assert Settings().catalog().plans["p"].quota == quota


def test_errors_by_name() -> None:
    """A body of one's own is named as package.module:function, or passed."""
    assert Settings(errors=f"{__name__}:own_body").error_body is own_body
    body: Body = own_body
    assert Settings(errors=body).error_body is own_body
    assert Settings(errors="problem").error_body == "problem"


def test_networks() -> None:
    """Proxies are addresses or networks, or whoever is at a Unix socket."""
    assert Settings(trusted_proxies="unix").networks == ("unix",)
    networks = Settings(trusted_proxies="10.0.0.0/8,::1").networks
    assert networks == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))


def test_scopes_of_rules_are_known() -> None:
    """The scopes that a key may have are those listed and those of the rules."""
    settings = Settings(scopes="a", rules=[{"path": "/x", "scopes": ["b"]}])
    assert settings.catalog().known_scopes == {"a", "b"}
    assert Settings().catalog().known_scopes == frozenset()


def test_catalog() -> None:
    """The first plan of the table is the default (R6); all modules are known, and what is not
    metered (R2); the peppers are bytes.
    """
    plans = {"free": {"modules": ["a"]}, "big": {"modules": ["b"]}}
    settings = Settings(plans=plans, pepper=f"{SECRET},{OLDER}")
    catalog = settings.catalog()
    assert catalog.default_plan == "free"
    assert catalog.modules == {"a", "b"}
    assert catalog.unmetered == {"test"}
    assert settings.peppers == [SECRET.encode(), OLDER.encode()]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("key_prefix", "", "1 to 16 letters"),
        ("key_prefix", "a_b", "1 to 16 letters"),
        ("key_prefix", "1a", "a letter first"),
        ("key_prefix", "a" * 17, "1 to 16 letters"),
        ("key_prefix", "kr\n", "1 to 16 letters"),
        ("key_prefix", "é", "1 to 16 letters"),
        ("key_environments", "live,te st", "1 to 32 letters"),
        ("key_environments", "live,1x", "a letter first"),
        ("cache_size", "-1", "greater than or equal to 0"),
        ("cache_size", "many", "integer"),
        ("cache_size", "1.5", "integer"),
        ("cache_ttl", "-0.1", "greater than or equal to 0"),
        ("cache_ttl", "3601", "less than or equal to 3600"),
        ("cache_ttl", "nan", "less than or equal to 3600"),
        ("cache_ttl", "inf", "less than or equal to 3600"),
        ("stale_if_error", "-1", "greater than or equal to 0"),
        ("verify", "argon2", "'argon2id' or 'fingerprint'"),
        ("verify", "", "'argon2id' or 'fingerprint'"),
        ("argon2_time_cost", "0", "greater than or equal to 1"),
        ("argon2_memory_cost", "7", "greater than or equal to 8"),
        ("argon2_memory_cost", str(2**32), "less than or equal to"),
        ("argon2_parallelism", "0", "greater than or equal to 1"),
        ("headers", "X-RateLimit", "'x-ratelimit', 'ietf' or 'both'"),
        ("gated_status", "401", "'403' or '402'"),
        ("errors", "plain", "documented, problem or package.module:function"),
        ("errors", "no.such.module:body", "no.such.module"),
        ("errors", "json:no_such_name", "json"),
        ("errors", "json:__name__", "documented, problem or package.module:function"),
        ("keys_url", "dash.example", "http or https"),
        ("keys_url", "javascript:alert(1)", "http or https"),
        ("keys_url", "https://x\r\ny", "http or https"),
        ("realm", 'a"b', "printable ASCII"),
        ("realm", "a\\b", "printable ASCII"),
        ("realm", "a\r\nb", "printable ASCII"),
        ("realm", "é", "printable ASCII"),
        ("realm", "", "1 to 64"),
        ("trusted_proxies", "10.0.0.1/8", "host bits"),
        ("trusted_proxies", "proxy.example", "proxy.example"),
        ("public_paths", "health", "must start with /"),
        ("public_paths", "/docs/*/x", "as the last one"),
        ("optional_paths", "/a//b", "no //"),
        ("scopes", 'read:"x"', "visible ASCII"),
        ("scopes", "read articles", "visible ASCII"),
    ],
)
def test_wrong_value(monkeypatch: pytest.MonkeyPatch, field: str, value: str, allowed: str) -> None:
    """A wrong value stops the start-up; setting, value and what is allowed are named."""
    monkeypatch.setenv(f"KEYRUSH_{field.upper()}", value)
    message = wrong()
    assert field in message.lower()
    assert allowed in message
    assert repr(value.rpartition(",")[2])[1:-1] in message


@pytest.mark.parametrize(
    ("table", "named", "allowed"),
    [
        ("[plans.p]\nlimits = '100'", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = ''", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = '-5/minute'", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = '100/0minute'", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = '5/minute;9/minute'", "plans.p.limits", "two limits per minute"),
        (f"[plans.p]\nlimits = '{10**15}/minute'", "plans.p.limits", "too large"),
        ("[plans.p]\nlimits = 100", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = [100]", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = false", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = {a = 1}", "plans.p.limits", "100/minute"),
        ("[plans.p]\nlimits = ['5/minute', 'unlimited']", "plans.p.limits", "100/minute"),
        ("[plans.p]\nmonthly_quota = -1", "plans.p.monthly_quota", "greater than or equal to 0"),
        (f"[plans.p]\nmonthly_quota = {10**15}", "plans.p.monthly_quota", "less than or equal"),
        ("[plans.p]\nmonthly_quota = true", "plans.p.monthly_quota", "integer"),
        ("[plans.p]\nmonthly_quota = 1.5", "plans.p.monthly_quota", "integer"),
        ("[plans.p]\nmonthly_quota = 'unlimited'", "plans.p.monthly_quota", "integer"),
        ("[plans.p]\non_exceed = 'ignore'", "plans.p.on_exceed", "'overage' or 'block'"),
        ("[plans.p]\nper = 'ip'", "plans.p.per", "'key' or 'account'"),
        ("[plans.p]\nquota_per = 'ip'", "plans.p.quota_per", "'key' or 'account'"),
        ("[plans.p]\nmax_keys = 0", "plans.p.max_keys", "greater than or equal to 1"),
        ("[plans.p]\nmax_keys = '9'", "plans.p.max_keys", "integer"),
        ("[plans.p]\nmax_keys = 1000001", "plans.p.max_keys", "less than or equal to 1000000"),
        ("[plans.p]\nmax_concurrent = 0", "plans.p.max_concurrent", "greater than or equal to 1"),
        ("[plans.p]\nmax_concurrent = true", "plans.p.max_concurrent", "integer"),
        ("[plans.p]\noverage_price = -1", "plans.p.overage_price", "greater than or equal to 0"),
        ("[plans.p]\nmodules = 'meta'", "plans.p.modules", "a list"),
        ("[plans.p]\nlimit = '5/minute'", "plans.p.limit", "is no setting"),
        ("[plans.'1 p']", "plans.1 p: '1 p'", "1 to 32 letters"),
        ("[plans]", "KEYRUSH_PLANS", "at least one plan"),
        ("[[rules]]\npath = 'api'", "rules.0.path", "must start with /"),
        ("[[rules]]\npath = '/{id'", "rules.0.path", "{name}"),
        ("[[rules]]", "rules.0.path", "required"),
        ("[[rules]]\npath = '/x'\ncredits = -1", "rules.0.credits", "greater than or equal to 0"),
        (f"[[rules]]\npath = '/x'\ncredits = {10**9 + 1}", "rules.0.credits", "less than or equal"),
        ("[[rules]]\npath = '/x'\ncredits = true", "rules.0.credits", "integer"),
        ("[[rules]]\npath = '/x'\nmethods = ['GET /']", "rules.0.methods", "a method of HTTP"),
        ("[[rules]]\npath = '/x'\nmethods = ['FETCH']", "rules.0.methods.0", "a method of HTTP"),
        ("public_paths = ['FETCH /x']", "KEYRUSH_PUBLIC_PATHS", "'FETCH' is no method of HTTP"),
        ("public_paths = ['GET POST /x']", "KEYRUSH_PUBLIC_PATHS", "'GET POST' is no method"),
        ("optional_paths = ['FETCH /x']", "KEYRUSH_OPTIONAL_PATHS", "'FETCH' is no method"),
        ("[[rules]]\npath = '/x'\nscopes = ['a b']", "rules.0.scopes", "visible ASCII"),
        ("[[rules]]\npath = '/x'\nscope = ['a']", "rules.0.scope", "is no setting"),
        ("no_such_thing = 1", "no_such_thing", "is no setting"),
        ("pepperr = 'hunter2'", "pepperr", "did you mean pepper?"),
        ("[plan.p]", "plan", "did you mean plans?"),
        ("KEYRUSH_REALM = 'x'", "KEYRUSH_REALM", "did you mean realm?"),
        ("[rules]\npath = '/x'", "KEYRUSH_RULES", "begin each with [[rules]]"),
        ("plans = ['free']", "KEYRUSH_PLANS", "should be a table"),
        ("[plans.p]\ncredits_per_month = 9", "plans.p.credits_per_month", "with amount, mode"),
        ("[plans.p]\ncredits_per_month = {a = 9}", "plans.p.credits_per_month.a", "amount, mode"),
        ("anonymous = '9/minute'", "KEYRUSH_ANONYMOUS", "a table with limits, exempt_paths"),
        ("[plans.p]\nzzz = 1", "plans.p.zzz", "allowed are limits, monthly_quota"),
        ("[plans.p]\nlimits = '9/fortnight'", "plans.p.limits", "second, minute, hour, day"),
        ("hide_credentials = 'maybe'", "KEYRUSH_HIDE_CREDENTIALS", "should be true or false"),
    ],
)
def test_wrong_table(toml: Toml, table: str, named: str, allowed: str) -> None:
    """A wrong or unknown entry of the file is named with its path; nothing is ignored."""
    toml(table)
    message = wrong()
    assert named in message
    assert allowed in message
    assert "hunter2" not in message


_RESOURCE = {
    "path": "/mcp",
    "resource": "https://h/mcp",
    "authorization_servers": ["https://login"],
}
_AT_MCP = {"path": "/mcp", "mcp": "tools/call"}


@pytest.mark.parametrize(
    ("rules", "same"),
    [
        ([{"path": "/x"}, {"path": "/x"}], "path and methods"),
        ([{"path": "/x/{a}"}, {"path": "/x/{b}/", "methods": ["GET"]}], "path and methods"),
        ([{"path": "/x", "methods": [one]} for one in ("get", "HEAD")], "path and methods"),
        (
            [
                {"path": "/x", "methods": list(some)}
                for some in (["PUT"], ["POST"], ["PUT", "POST"])
            ],
            "path and methods",
        ),
        ([_AT_MCP | {"tool": "a"}, _AT_MCP | {"tool": "a"}], "path, mcp and tool"),
        ([_AT_MCP, _AT_MCP | {"tool": "a"}], "path, mcp and tool"),
    ],
)
def test_rule_without_effect(rules: list[dict[str, Any]], same: str) -> None:
    """A rule that never counts, because those before it have its path and all its methods, or its
    tool, stops the start-up.
    """
    last = len(rules) - 1
    with pytest.raises(ConfigurationError) as caught:
        Settings(rules=rules, resources=[_RESOURCE])
    assert f"rules.{last}: has no effect: rules.{last - 1} has the same {same}" in str(caught.value)


def test_rules_that_overlap() -> None:
    """Rules that differ in their path, a method or their tool are all good, the narrower first."""
    rules = [
        {"path": "/x", "methods": ["GET"]},
        {"path": "/x", "methods": ["GET", "POST"]},
        {"path": "/x"},
        {"path": "/{rest:path}", "methods": ["M-SEARCH"]},
        _AT_MCP | {"tool": "a"},
        _AT_MCP | {"tool": "b"},
        _AT_MCP,
        {"path": "/tools/a", "tool": "a"},
        {"path": "/v2/tools/a", "tool": "a"},
    ]
    assert len(Settings(rules=rules, resources=[_RESOURCE]).catalog().rules) == len(rules)


PLACES = """\
# a comment
realm = "a"

[plans.p]  # 4
limits = [
    "5/minute",
    "100/hour",
]
per = "key"

[plans]
q = { limits = "1/minute", per = "account" }
r.limits = "1/minute"

[[rules]]  # 15
path = "/a"
credits = 1

[[rules]]  # 19
path = "/b"
"""


@pytest.mark.parametrize(
    ("right", "mistake", "said", "line"),
    [
        ('realm = "a"', 'realm = ""', "KEYRUSH_REALM: '' must be 1 to 64 printable", 2),
        ('realm = "a"', "relam = 1", "relam: is no setting; did you mean realm?", 2),
        ('"100/hour"', '"100/ages"', "plans.p.limits: '5/minute;100/ages' is no limit", 5),
        ('per = "key"', "module = []", "plans.p.module: is no setting; did you mean modules?", 9),
        ('per = "account"', "x = 1", "plans.q.x: is no setting", 12),
        ("r.limits", "r.limit", "plans.r.limit: is no setting; did you mean limits?", 13),
        ("credits = 1", "credit = 1", "rules.0.credit: is no setting; did you mean credits?", 17),
        ('path = "/b"', 'paths = "/b"', "rules.1.paths: is no setting; did you mean path?", 20),
        ('path = "/b"', "", "rules.1.path: is required", 19),
        ('path = "/b"', 'path = "b"', "rules.1.path: 'b' must start with /", 20),
        ("credits = 1", "limits = { free = '1/day' }", "rules.0.limits: free is no plan", 17),
        ('path = "/b"', 'path = "/b"\nlimit_group = "x"', "rules.1.limit_group: no rule", 21),
        ('path = "/b"', 'path = "/b"\nmcp = "x"', "rules.1: /b has mcp", 19),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mistakes_in_the_file_have_a_place(
    toml: Toml, *, right: str, mistake: str, said: str, line: int, end: str
) -> None:
    """What is wrong in the file is said with its name, the line, and the name that was meant."""
    assert right in PLACES
    path = toml("")
    path.write_bytes(PLACES.replace(right, mistake, 1).replace("\n", end).encode())
    lines = wrong().splitlines()
    (found,) = (one for one in lines if one.startswith(said))
    assert found.endswith(f" ({path}, line {line})")


def test_mistakes_elsewhere_have_no_place(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment or an argument says wrong is not looked for in the file."""
    toml("realm = 'a'\nheaders = 'both'")
    monkeypatch.setenv("KEYRUSH_REALM", "")
    assert "line" not in wrong()
    monkeypatch.setenv("KEYRUSH_REALM", "b")
    assert "line" not in wrong(headers="none")


@given(tables=st.lists(st.sampled_from(["path = '/{n}'", "#", "", "scopes = [\n'a',\n]"])))
def test_places_in_any_file(tables: list[str]) -> None:
    """However a file is laid out, the line that is named is where the mistake begins."""
    text = "\n".join(["[[rules]]", "path = '/'", *tables, "wrong = [", "]", *tables])
    text = text.replace("path = '/{n}'", "[[rules]]\npath = '/n'")
    text = text.replace("'a',", "'a', # ]")
    parts = text.split("\nwrong = [", 1)
    try:
        rules = tomllib.loads(text)["rules"]
    except tomllib.TOMLDecodeError:  # the same name twice in one table
        assume(False)
    number = next(n for n, rule in enumerate(rules) if "wrong" in rule)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keyrush.toml"
        path.write_text(text)
        place = sources.place(("rules", number, "wrong"), {"config": path})
    assert place == f"{path}, line {parts[0].count(chr(10)) + 2}"


def test_a_mistake_in_a_long_list_shows_no_list(toml: Toml) -> None:
    """Of many rules the message is about the wrong one alone, in one short line."""
    rules = "".join(f"[[rules]]\npath = '/{number}'\n" for number in range(30))
    path = toml(f"{rules}[[rules]]\npath = '/x/*'\n")
    said = "rules.30.path: '/x/*' write {name} for one segment, and {name:path} for the rest"
    assert wrong() == f"{said} ({path}, line 62)"


def test_all_mistakes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wrong setting has its line, so that nobody mends them one by one."""
    monkeypatch.setenv("KEYRUSH_VERIFY", "md5")
    monkeypatch.setenv("KEYRUSH_CACHE_SIZE", "-1")
    assert len(wrong(realm="").splitlines()) == 3


def test_argon2_needs_memory_for_its_lanes() -> None:
    """8 KiB for each lane: what argon2 would refuse at the first key is refused at start-up."""
    assert "ARGON2" in wrong(argon2_memory_cost=8, argon2_parallelism=2)
    settings = Settings(argon2_memory_cost=16, argon2_parallelism=2, argon2_time_cost=1)
    hashing = Hashing(
        settings.argon2_time_cost, settings.argon2_memory_cost, settings.argon2_parallelism
    )
    assert hashing.verify(hashing.hash(b"k"), b"k")


@pytest.mark.parametrize(
    ("name", "value"),
    [("pepper", f"{SECRET},{SECRET}"), ("peper", SECRET), ("store_urls", SECRET)],
)
def test_secrets_are_never_in_messages(toml: Toml, name: str, value: str) -> None:
    """O22: a message about a secret setting, or one misspelled, does not show its value."""
    toml(f'{name} = "{value}"')
    assert SECRET not in wrong()


def test_same_pepper_twice() -> None:
    """A rotation that changes nothing is a mistake."""
    assert "same pepper" in wrong(pepper=f"{SECRET},{SECRET}")


@pytest.mark.parametrize("name", ["VERFIY", "STOREURL", "STORE_URI", "PEPPERS", "CACHE_TTLS"])
def test_nearly_a_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A variable that is nearly a setting stops the start-up, with the name that was meant."""
    monkeypatch.setenv(f"KEYRUSH_{name}", SECRET)
    message = wrong()
    assert f"KEYRUSH_{name}" in message
    assert "did you mean KEYRUSH_" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "name", ["KEYRUSH_PORT", "KEYRUSH_SERVICE_HOST", "KEYRUSH_PORT_80_TCP_ADDR", "XKEYRUSH_VERFIY"]
)
def test_variables_of_others(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What Kubernetes sets for a service called keyrush is nobody's mistake."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert Settings() == Settings()


def test_file_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that can't be read is named, with the reason."""
    monkeypatch.setenv("KEYRUSH_CONFIG", str(tmp_path / "none.toml"))
    assert "KEYRUSH_CONFIG" in wrong()
    assert "none.toml" in wrong()
    monkeypatch.setenv("KEYRUSH_CONFIG", str(tmp_path))
    assert "KEYRUSH_CONFIG" in wrong()


@pytest.mark.parametrize("text", ["realm = ", "[plans.p]\n[plans.p]", "realm = 'a'\nrealm = 'b'"])
def test_file_that_is_no_toml(toml: Toml, text: str) -> None:
    """A syntax error or a double entry is reported with the file and the place in it."""
    path = toml(text)
    assert f"KEYRUSH_CONFIG: {path}: " in wrong()
    assert "(at " in wrong()


def test_file_that_is_no_text(toml: Toml) -> None:
    """A file in another encoding is named, too."""
    path = toml("")
    path.write_bytes(b"realm = '\xff'")
    assert str(path) in wrong()


def test_table_that_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in the environment that is no JSON is named."""
    monkeypatch.setenv("KEYRUSH_PLANS", "{starter")
    message = wrong()
    assert "KEYRUSH_PLANS" in message
    assert "JSON" in message


def test_settings_are_frozen() -> None:
    """What was validated stays as it is."""
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.realm = "other"


@pytest.mark.parametrize(
    "name",
    [
        "LIMITER_PORT",
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "STORE_SERVICE_HOST",
        "PORT",
        "PORT_80_TCP",
        "PORT_80_TCP_ADDR",
        "PORT_80_TCP_PORT",
        "PORT_53_UDP_PROTO",
    ],
)
def test_service_links_are_passed_over(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What Kubernetes says of a service that is named like keyrush is none of its settings."""
    monkeypatch.setenv(f"KEYRUSH_{name}", "tcp://10.0.0.1:80")
    assert Settings().limiter_url == "store"
    assert unknown_variables(Settings.model_fields) == []


def test_typing_errors_still_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is nearly a setting, and no service link, stops the start."""
    monkeypatch.setenv("KEYRUSH_LIMITER_ULR", "memory://")
    assert "did you mean KEYRUSH_LIMITER_URL?" in wrong()
