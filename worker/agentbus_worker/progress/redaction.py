"""Takes out of a text what looks like a credential: those of the worker itself, and the known forms of others.

It keeps agents from telling a secret by mistake. An agent that wants to tell one can: it may write it backwards.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from agentbus.config.connection_settings import Credentials

REDACTED: Final = "[redacted]"
_LEAST_CHARS: Final = 8
"""A shorter value stands in too many words that are none."""
_MOST_CHARS: Final = 4_096
_SECRET_NAME: Final = re.compile(r"(?i)(?:^|_)(?:api_?key|key|token|secret|pass(?:word|wd|phrase)?|pwd|credentials?)$")
"""How the names of environment variables end that hold one."""
_FORMS: Final = (
    r"\bsk-[\w-]{16,}",  # model providers
    r"\bgh[pousr]_\w{20,}",
    r"\bgithub_pat_\w{20,}",
    r"\bglpat-[\w-]{16,}",
    r"\bxox[abeprs]-[\w-]{10,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bAIza[\w-]{30,}",
    r"\bhf_\w{20,}",
    r"\bS[UAONCX][A-Z2-7]{56}\b",  # seeds of nkeys
    r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",  # JSON web tokens
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,40}-----)?",
    r"(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{12,}",
    r"(?<=://)[^\s/@:'\"]{1,200}:[^\s/@'\"]{1,200}(?=@)",
    r"(?i:(?:api[_-]?key|access[_-]?token|auth[_-]?token|secret|passw(?:or)?d)[\"']?\s{0,4}[=:]\s{0,4}[\"']?)[^\s\"',;]{8,}",
)
_CUT: Final = "…"


class Redactor:
    """Replaces known secrets, and what has the form of one.

    Args:
        secrets: values that must not be told; those of less than eight characters are passed over.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        lines = {line.strip() for value in secrets for line in value.splitlines()}
        self._known = sorted((one for one in lines if _LEAST_CHARS <= len(one) <= _MOST_CHARS), key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, self._known), *_FORMS]))

    def __call__(self, text: str) -> str:
        """Return the text without secrets, also without the beginning of one at the end of a text that was cut."""
        text = self._pattern.sub(REDACTED, text)
        words, cut = (text[: -len(_CUT)], _CUT) if text.endswith(_CUT) else (text, "")
        for secret in self._known:
            for length in range(min(len(secret) - 1, len(words)), _LEAST_CHARS - 1, -1):
                if words.endswith(secret[:length]):
                    return f"{words[:-length]}{REDACTED}{cut}"
        return text


def secrets_in(environment: Mapping[str, str], credentials: Credentials) -> Iterator[str]:
    """Yield the secrets of a worker: those by which it signs in, and those in the environment of its commands."""
    for value in (credentials.password, credentials.token, credentials.nkey_seed, credentials.jwt):
        if value:
            yield value
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not value.startswith(("/", "~")):  # not the path of a file
            yield value
