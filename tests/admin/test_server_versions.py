"""What is said of versions of nats-server."""

import pytest

from agentbus.admin.server_versions import ADVISORIES, OLDEST_SERVER, parse_version, version_warning


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.9.10", "older than 2.10"),
        ("0.0.0", "older than 2.10"),
        ("2.10.26", "CVE-2025-30215"),
        ("2.10.27", "CVE-2026-"),  # its line got no fix of a later flaw
        ("2.11.0", "CVE-2025-30215"),
        ("2.11.0-preview.2", "CVE-2025-30215"),
        ("2.11.1", "CVE-2026-27889"),
        ("2.11.14", "CVE-2026-33218"),
        ("2.11.15", "GHSA-38x3-76xf-cq45"),
        ("2.11.16", "CVE-2026-58207"),
        ("2.12.6", "GHSA-38x3-76xf-cq45"),
        ("2.12.8", "CVE-2026-58207"),
        ("2.12.11", "CVE-2026-58207"),
        ("2.12.12", None),
        ("2.14.2", "CVE-2026-58207"),
        ("2.14.3", None),
        ("2.15.0", None),
        ("2.15.1", None),
        ("3.0.0", None),
        ("", "is none of nats-server"),
        ("dev", "is none of nats-server"),
        ("2.12", "is none of nats-server"),
        ("\x1b[31m" * 100, "is none of nats-server"),
    ],
)
def test_a_version_is_warned_of_with_the_reason_and_what_to_do(version: str, says: str | None):
    warning = version_warning(version)
    if says is None:
        assert warning is None
        return
    assert warning is not None
    assert says in warning
    assert warning.isprintable()
    assert len(warning) < 300
    assert "upgrade it" in warning or "none of" in warning


def test_a_flaw_concerns_no_version_before_it_came_and_none_from_its_fix_on():
    for advisory in ADVISORIES:
        for fixed in advisory.fixed:
            assert not advisory.concerns(fixed)
            assert not advisory.concerns((fixed[0], fixed[1], fixed[2] + 1))
            if fixed[2]:
                assert advisory.concerns((fixed[0], fixed[1], fixed[2] - 1))
        assert not advisory.concerns((9, 0, 0))
        if advisory.since > OLDEST_SERVER:
            assert not advisory.concerns(OLDEST_SERVER)


def test_a_version_is_read_with_or_without_what_follows_it():
    assert parse_version("v2.12.0-RC.1") == parse_version("2.12.0") == (2, 12, 0)
    assert parse_version("2.12.0.1") == (2, 12, 0)
    assert parse_version("9" * 5000) is None
