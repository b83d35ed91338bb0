"""The one kind of object ids that work is sent and brought home with: git itself does not mix the two kinds."""

from typing import Final

SHA1: Final = "sha1"
OTHER_FORMAT: Final = "has object ids of SHA-256, and agents work in repositories with those of SHA-1 only"
