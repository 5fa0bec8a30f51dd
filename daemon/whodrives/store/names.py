"""Validation and comparison of drivers' names."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress

from whodrives.errors import ProfileError

MOST_CHARACTERS = 64


_MOST_TYPED = 16 * MOST_CHARACTERS
"""Longer text is refused before it is examined."""


_LEFT_OUT = frozenset("\u00ad\u034f\u061c\u200b\u200e\u200f\u2060\ufeff")
"""Invisible characters that no spelling needs: soft hyphen, grapheme joiner, direction marks
(Arabic, left to right, right to left), zero-width space, word joiner, byte order mark. Keyboards
and the clipboard insert them."""


_JOINERS = frozenset("\u200c\u200d")
"""Zero-width non-joiner and joiner, which Persian, Hindi, Sinhala, ... and emoji need."""


_UNJOINED = ("LATIN ", "GREEK ", "CYRILLIC ")
"""Scripts without joiners (RFC 5892, appendix A)."""


_BLANK_LETTERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and symbols that are invisible."""


_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories without visible text: controls, formats, surrogates, private use, unassigned,
line and paragraph separators."""


_ID = re.compile(r"[dg]-[0-9a-f]{8}")
"""Ids of drivers and guests."""


def checked(name: str) -> str:
    """The name as it is stored.

    Raises:
        ProfileError: the name is invalid; the text gives the reason and the fix.
    """
    name = checked_text(name, "a name")
    if name.startswith("-"):
        raise ProfileError(
            "a name cannot begin with '-', which begins an option; give another name"
        )
    refuse_id(name)
    return name


def checked_text(text: str, what: str) -> str:
    """Text that identifies a person, as it is stored; `what` begins the error's sentence.

    Raises:
        ProfileError: the text is invalid; the error gives the reason and the fix.
    """
    if len(text) > _MOST_TYPED:
        raise ProfileError(
            f"{what} has at most {MOST_CHARACTERS} characters, and this has {len(text)}; shorten it"
        )
    try:
        text = _decoded(text)
    except UnicodeError:
        raise ProfileError(
            f"{what} is text in UTF-8, and this has bytes that are not (shown: {shown(text)}); "
            "type it again, in a terminal whose encoding is UTF-8"
        ) from None
    text = _trimmed(text)
    if refused := [character for character in text if not _is_allowed(character)]:
        codes = ", ".join(f"U+{ord(character):04X}" for character in dict.fromkeys(refused))
        raise ProfileError(
            f"{what} holds no control characters and nothing invisible, and this has {codes[:80]}; "
            "type it again without"
        )
    if not any(unicodedata.category(character)[0] in "LNS" for character in text):
        raise ProfileError(f"{what} needs letters, and this has none; give another")
    if unicodedata.category(text[0])[0] == "M":
        raise ProfileError(
            f"{what} cannot begin with a combining mark (U+{ord(text[0]):04X}); "
            "put it after its letter"
        )
    if len(text) > MOST_CHARACTERS:
        raise ProfileError(
            f"{what} has at most {MOST_CHARACTERS} characters, and this has {len(text)}; shorten it"
        )
    return text


def refuse_id(name: str) -> None:
    """Raise ProfileError for a name that looks like a driver's or a guest's id."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    plain = "".join("-" if _is_dash(character) else character for character in plain)
    if _ID.fullmatch("".join(plain.split())):
        raise ProfileError(f"{name} looks like an id; give another name")


def readable(text: str) -> str:
    """Stored text of any version as printable text, with `?` for other characters."""
    return "".join(c if _is_allowed(c) or c in _JOINERS else "?" for c in _trimmed(text))


def folded(name: str) -> str:
    """The name for comparison, without differences in case, width, blanks, invisible characters."""
    with suppress(UnicodeError):
        name = _decoded(name)
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(c for c in name if not (c in _LEFT_OUT or c in _JOINERS or _is_selector(c)))
    return unicodedata.normalize("NFC", " ".join(seen.split()))


def shown(text: str) -> str:
    """The start of a text, safe to print in an error."""
    return "".join(c if _is_allowed(c) else _escaped(c) for c in text[:MOST_CHARACTERS])


def _escaped(character: str) -> str:
    """The character as a Python escape; an undecodable byte as a hex escape."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _decoded(text: str) -> str:
    """Decode surrogates, which stand for bytes that the locale could not decode, as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8")


def _trimmed(text: str) -> str:
    """The text in NFC, without removed characters and joiners that join nothing."""
    text = "".join(c for c in unicodedata.normalize("NFC", text) if c not in _LEFT_OUT)
    text = unicodedata.normalize("NFC", text).strip()
    return "".join(
        character
        for place, character in enumerate(text)
        if character not in _JOINERS or _joins(text[:place], text[place + 1 :])
    )


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between these is part of the spelling."""
    return all(
        side
        and unicodedata.category(side)[0] in "LMS"
        and not unicodedata.name(side, "").startswith(_UNJOINED)
        for side in (before[-1:], after[:1])
    )


def _is_allowed(character: str) -> bool:
    return character in _JOINERS or (
        unicodedata.category(character) not in _UNSEEN
        and character not in _BLANK_LETTERS
        and character != "\ufffd"
    )


def _is_selector(character: str) -> bool:
    """Whether it is a variation selector, Mongolian's included."""
    return (
        character in "\u180b\u180c\u180d\u180f"
        or "\ufe00" <= character <= "\ufe0f"
        or ("\U000e0100" <= character <= "\U000e01ef")
    )


def _is_dash(character: str) -> bool:
    return unicodedata.category(character) == "Pd" or character == "\u2212"
