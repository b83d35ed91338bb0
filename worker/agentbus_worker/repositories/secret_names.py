"""Names of files that look like secrets: what an agent leaves under one is not committed for it, nor brought home."""

import re
from typing import Final

_SECRET: Final = re.compile(
    r"""
    \.env(\..+)?|\.envrc|\.netrc|_netrc|\.git-credentials|\.npmrc|\.pypirc|\.pgpass|\.my\.cnf|\.htpasswd|\.dockercfg
    |id_(rsa|dsa|ecdsa|ed25519)(_sk)?(\.old|\.bak)?
    |.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|nk|creds)
    |credentials(\.json)?|client_secret.*\.json|service[-_]account.*\.json|secrets?\.(json|ya?ml|toml|env|txt)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_TEMPLATE: Final = re.compile(r"\.env\.(example|sample|template|dist|defaults?)", re.IGNORECASE)
"""What projects commit, to say what belongs into such a file."""
_FOLDERS: Final = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".kube"})


def looks_like_a_secret(path: str) -> bool:
    """Whether the last part of a path is the name of a file that as a rule holds a secret, or a folder of such is."""
    *folders, name = path.split("/")
    if any(folder.lower() in _FOLDERS for folder in folders):
        return True
    return _SECRET.fullmatch(name) is not None and _TEMPLATE.fullmatch(name) is None
