"""The types of the settings: defaults, printing, and what the rest of the package derives from them."""

from __future__ import annotations

import msgspec
import pytest

from mcp_audit.config.inactive import get
from mcp_audit.config.loader import SECRET_KEYS
from mcp_audit.config.model import Config, Section
from mcp_audit.config.shapes import leaves_of
from mcp_audit.errors import ConfigError, ConfigErrors


def test_a_section_given_in_part_keeps_the_other_defaults() -> None:
    """What `Config()` has is what the section's own type says, so that one key in a file changes one setting."""
    differing = []
    for key, info, _ in leaves_of(Config):
        default = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
        if get(Config(), key) != default:
            differing.append(key)

    assert differing == []


def test_every_setting_says_what_it_is_for() -> None:
    """The schema and the reference are made of these."""
    silent = [key for key, _, shape in leaves_of(Config) if not any(meta.description for meta in shape.metas)]

    assert silent == []


def test_nothing_can_be_changed() -> None:
    """Whoever holds a `Config` holds what was checked."""
    with pytest.raises(AttributeError):
        Config().proxy.port = 1  # type: ignore[misc]


def test_secrets_are_known_by_their_type() -> None:
    """References are expanded in these and in no others."""
    assert {key for key, _, shape in leaves_of(Config) if shape.secret} == set(SECRET_KEYS)


def test_no_repr_shows_a_secret() -> None:
    """A config that ends up in a traceback or a log gives nothing away."""
    hidden = {
        "audit": {"secret": "sesame"},
        "dashboard": {"auth": {"token": "sesame"}},
        "otel": {"headers": {"A": "sesame"}},
        "proxy": {"bridge": {"headers": {"A": "sesame"}}},
    }
    assert len(hidden) == len(SECRET_KEYS)

    shown = repr(msgspec.convert(hidden, Config))

    assert "sesame" not in shown
    assert shown.count("<hidden>") == 4
    assert "port=4422" in shown


def test_every_section_prints_itself() -> None:
    """One base for all, so none can forget to hide."""
    sections: list[type] = [Config]
    for section in sections:
        assert issubclass(section, Section)
        sections += [
            kind for info in msgspec.structs.fields(section) if isinstance(kind := type(info.default), type(Config))
        ]
    assert len(sections) > 20


def test_one_error_and_several() -> None:
    """A caller that shows all shows them alike; the sentence of several is one indented line each."""
    first, second = ConfigError("a.b", "is wrong", "f:1"), ConfigError("", "is worse", "f:2")
    both = ConfigErrors([first, second])

    assert first.problems == (first,)
    assert both.problems == (first, second)
    assert (both.key, both.where, both.exit_code) == ("a.b", "f:1", 2)
    assert str(both) == "2 problems with the configuration:\n  f:1: a.b: is wrong\n  f:2: is worse"
