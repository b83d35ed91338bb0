"""Shortens errors so that they still say why: agents wrap the reason into JSON, and put it first or last."""

import re
from typing import Final

_MESSAGE: Final = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)+)"')
_OPENING: Final = re.compile(r"[\[{]")
_NEVER_WHY: Final = re.compile(
    r"[,;]?\s*(?:\burl:\s*)?\bhttps?://\S+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\bLearn more:|\bMessage ID: \S+"
)
"""Addresses and ids, which are long."""
_HOW: Final = re.compile(
    r"^(?:the command exited(?: with status \d+)?: |timed out after [^:]{1,40}: |printed nothing for [^:]{1,40}: )"
)
"""How a run ended: the code of the failure says that, too."""
_ERROR: Final = re.compile(r"^\[?API Error: ")
_TELLING: Final = re.compile(
    r"\b(?:401|402|403|404|429|5[0-3]\d|api.key|credential|quota|credit|billing|(?:rate|usage|token) limit|permission"
    r"|allowed|denied|overloaded|demand|capacity|not found|not exist|too (?:long|large)|exceeds|context|refused|blocked"
    r"|safety|safeguard|memory|no space|timed out|unreachable|network)\b",
    re.IGNORECASE,
)
"""Words of the reason, by which errors of models' servers and of systems can be told from each other."""
_TIGHT_CHARS: Final = 150
"""With less room, what a reader knows from the code is left out."""
_LEAST_CHARS: Final = 20


def shortened(text: str, chars: int) -> str:
    """Return the part of an error that says why, in `chars` characters at most (20 at least); a short one as it is."""
    if len(text) <= chars:
        return text
    chars = max(chars, _LEAST_CHARS)
    before, inner = _out_of_json(text)
    plain = " ".join(_NEVER_WHY.sub("", f"{before} {inner}" if before else inner).split()) or text
    if len(plain) > chars and chars < _TIGHT_CHARS:
        plain = _HOW.sub("", plain)
    if len(plain) > chars and chars < _TIGHT_CHARS:
        plain = _ERROR.sub("", inner if before else plain)
    return _both_ends(plain, chars)


def _out_of_json(text: str) -> tuple[str, str]:
    """Return what stands before the JSON in a text, and the innermost message in it; without one, the text."""
    plain = text
    while '\\"' in plain:  # JSON within a string of JSON
        plain = plain.replace("\\\\", "\\").replace('\\"', '"')
    found = _MESSAGE.findall(plain)
    if not found:
        return "", text
    inner = next((one for one in reversed(found) if len(one) >= _LEAST_CHARS), found[-1])
    return _OPENING.split(plain, maxsplit=1)[0].strip(), inner


def _both_ends(text: str, chars: int) -> str:
    """Cut a text in its middle: an error says first what happened, and last why.

    Where that would leave out what tells the reason, the text around it is kept.
    """
    if len(text) <= chars:
        return text
    head = chars // 2
    ends = f"{text[:head]}…{text[head + 1 - chars :]}"
    telling = _TELLING.search(text)
    if telling is None or _TELLING.search(ends):
        return ends
    start = max(0, min(telling.start() - chars // 3, len(text) - chars + 1))
    return f"…{text[start : start + chars - 2]}…"
