"""What to say when a server refuses credentials: whose they were, where they came from, what mends it."""

from datetime import UTC, datetime

from agentbus.config import ConnectionSettings, Credentials
from agentbus.errors import AuthenticationError
from agentbus.nkeys import UserKey, expiry


def refused(settings: ConnectionSettings, presented: Credentials) -> AuthenticationError:
    """The error for credentials that a server did not take; it quotes nothing secret."""
    return AuthenticationError(f"{settings.servers} refused the credentials{_of(settings, presented)}")


def _of(settings: ConnectionSettings, presented: Credentials) -> str:
    place = f" in {presented.file}" if presented.file else ""
    check = f"check {presented.key} in [nats]" if presented.key else "check the URL"
    if presented.jwt is not None:
        ends = expiry(presented.jwt)
        if ends is not None and ends <= datetime.now(UTC):
            return f": the user JWT{place} has expired on {ends:%Y-%m-%d at %H:%M} UTC; put a new .creds file there"
        return f" (the user JWT{place}): it may have been revoked; {check}, or put a new .creds file there"
    if presented.nkey_seed is not None:
        key = UserKey(presented.nkey_seed).public
        return f" (the nkey {key}{place}): it may have been replaced; join again with a new bundle, or {check}"
    if presented.password is not None:
        return (
            f" of the user {presented.user} (the password{place or ' in the URL'}): it may have been changed; {check}"
        )
    if presented.token is not None:
        return f" (the token{place or ' in the URL'}): it may have been changed; {check}"
    if settings.cert_file is not None:
        return f" (the client certificate in {settings.cert_file}): the server knows no user for it; check cert_file"
    return (
        ": there are none in the configuration; set user and password_file, token_file, nkey_file or creds_file in "
        "[nats]"
    )
