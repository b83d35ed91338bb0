"""Credentials are taken out of what runs tell: those of the worker, and what has the form of one."""

import pytest

from agentbus.config.connection_settings import Credentials
from agentbus_worker.progress.redaction import REDACTED, Redactor, secrets_in

SEED = "SUAM6LXJF6MAPQBEOAZ7A5YQRNTCC5J4XJ3O3ZKJ7TQXK6UQ5AXH3EOUIE"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key sk-ant-REDACTED-1234 used", f"key {REDACTED} used"),
        (f"seed {SEED}", f"seed {REDACTED}"),
        ("curl -H 'Authorization: Bearer abcdefghijklmnop'", f"curl -H 'Authorization: Bearer {REDACTED}'"),
        ("nats://code:hunter2@10.0.0.5:4222", f"nats://{REDACTED}@10.0.0.5:4222"),
        ('{"api_key": "0123456789abcdef"}', '{"[redacted]"}'),
        ("AKIAABCDEFGHIJKLMNOP", REDACTED),
        ("token ghp_abcdefghijklmnopqrstuvwxyz01", f"token {REDACTED}"),
        ("-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\nafter", f"{REDACTED}\nafter"),
        (
            "the tokens of this run: 12345678, the key of the map",
            "the tokens of this run: 12345678, the key of the map",
        ),
        ("https://example.com/a:b/c@d", "https://example.com/a:b/c@d"),
    ],
)
def test_what_has_the_form_of_a_credential_is_not_told(text: str, told: str):
    assert Redactor(())(text) == told


def test_the_credentials_of_the_worker_and_of_its_environment_are_not_told():
    environment = {
        "OPENAI_API_KEY": "a-very-plain-value",
        "DB_PASSWORD": "correct horse",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google.json",
        "MONKEY": "business as usual",
        "SHORT_KEY": "abc",
    }
    redact = Redactor(secrets_in(environment, Credentials("code", password="swordfish-42")))
    said = "a-very-plain-value, correct horse, swordfish-42, /etc/google.json, business as usual, abc"
    assert redact(said) == f"{REDACTED}, {REDACTED}, {REDACTED}, /etc/google.json, business as usual, abc"


@pytest.mark.parametrize("cut", ["…", ""])
def test_a_credential_that_is_cut_is_not_told_in_part(cut: str):
    redact = Redactor(["swordfish-42-and-more"])
    assert redact(f"echo swordfish-42{cut}") == f"echo {REDACTED}{cut}"


def test_redacting_takes_time_in_proportion_to_the_text():
    redact = Redactor(["swordfish-42"])
    for hostile in ("://a:" * 20_000, "bearer " * 15_000, "secret=" * 15_000, "eyJ" + "a" * 100_000):
        redact(hostile)
