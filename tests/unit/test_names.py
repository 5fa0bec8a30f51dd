"""What can be a name, and what cannot."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.errors import ProfileError
from whodrives.store.names import MOST_CHARACTERS, checked, checked_text, folded, readable


@pytest.mark.parametrize(
    "name",
    [
        "Anna Müller",
        "O'Brien-Ní Dhuibhne",
        "山田　太郎",
        "Anna\u00a0Maria",
        "محمد",
        "नेहा",
        "ක්\u200dරිෂ්",
        "مه\u200cرو",
        "葛\U000e0100城",
        "Bo 2",
        "🦊",
        "👨\u200d👩\u200d👧",
        "Trần Thị Ngọc Ánh",
        "ნინო",
        "יעל",
        "Ἀλέξανδρος",
    ],
)
def test_names_of_any_script_are_names_as_they_are_written(name: str) -> None:
    """With its blanks, joiners and glyph selectors; and it finds itself."""
    assert checked(name) == unicodedata.normalize("NFC", name)
    assert checked(checked(name)) == checked(name)
    assert folded(checked(name)) == folded(name)
    assert readable(name) == checked(name)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("محمد\u200f", "محمد"),
        ("\u200eAnna", "Anna"),
        ("\ufeffAnna\u200b", "Anna"),
        ("An\u00adna", "Anna"),
        ("Anna\u200d", "Anna"),
        ("An\u200cna", "Anna"),
        ("  Anna \n", "Anna"),
        ("A\u0308nna", "Änna"),
        ("J\udcc3\udcbcrgen", "Jürgen"),
    ],
)
def test_what_a_keyboard_or_a_clipboard_adds_is_left_out(typed: str, kept: str) -> None:
    """Direction marks, zero-width blanks, stray joiners; UTF-8 that a locale did not decode."""
    assert checked(typed) == kept


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "needs letters"),
        (" \u3000\u00a0", "needs letters"),
        ("\u200d", "needs letters"),
        ("\u200b\u200f", "needs letters"),
        ("...", "needs letters"),
        ("\u3164", r"U\+3164"),
        ("\u2800\u2800", r"U\+2800"),
        ("\u0301", "needs letters"),
        ("\u0301Anna", "combining mark"),
        ("a\nb", r"U\+000A"),
        ("a\tb", r"U\+0009"),
        ("a\0b", r"U\+0000"),
        ("\x1b[31mAnna", r"U\+001B"),
        ("\u202eannA", r"U\+202E"),
        ("Anna\u2066x\u2069", r"U\+2066, U\+2069"),
        ("a\u2028b", r"U\+2028"),
        ("J\ufffdrgen", r"U\+FFFD"),
        ("J\udcc3rgen", r"shown: J\\xc3rgen"),
        ("\ud800", "not"),
        ("\ue000x", r"U\+E000"),
        ("a" * (MOST_CHARACTERS + 1), "at most 64"),
        ("\u200d" * 10**6, "at most 64"),
        ("-Anna", "begins an option"),
        ("--consent", "begins an option"),
        ("d-0123abcd", "looks like an id"),
        ("D-0123ABCD", "looks like an id"),
        ("g-0123abcd", "looks like an id"),
        ("ｄ\u20110123abcd", "looks like an id"),  # noqa: RUF001
        ("d - 0123abcd", "looks like an id"),
        ("d-\u200b0123abcd", "looks like an id"),
    ],
)
def test_what_misleads_is_no_name_and_the_error_says_why(name: str, reason: str) -> None:
    """Invisible, unreadable, endless, like an option, like an id; the text can be printed."""
    with pytest.raises(ProfileError, match=reason) as caught:
        checked(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Anna Maria", "ANNA\u00a0\u00a0maria"),
        ("山田　太郎", "山田 太郎"),
        ("مه\u200cرو", "مهرو"),
        ("葛\U000e0100城", "葛城"),
        ("Straße", "STRASSE"),
        ("Ａｎｎａ", "Anna"),  # noqa: RUF001
    ],
)
def test_names_that_look_the_same_are_the_same(one: str, other: str) -> None:
    """Nobody need know which blank or which joiner somebody typed."""
    assert folded(one) == folded(other)


@given(st.text(st.characters(), max_size=80))
def test_any_text_is_a_name_or_is_refused_in_words(text: str) -> None:
    """No other error; what is a name stays one, can be shown, and can be encoded."""
    folded(text)
    assert all(c.isprintable() or unicodedata.category(c) in {"Zs", "Cf"} for c in readable(text))
    try:
        name = checked(text)
    except ProfileError as error:
        assert str(error)  # noqa: PT017 (which error it is does not matter here)
        return
    assert checked(name) == name
    assert folded(name)
    assert folded(name) == folded(name.upper()) or name.upper().casefold() != name.casefold()
    assert name.encode()


def test_who_agreed_may_be_a_pseudonym() -> None:
    """An account's number, or an id, can agree; bytes that are no text cannot."""
    assert checked_text("d-0123abcd", "who agreed") == "d-0123abcd"
    with pytest.raises(ProfileError, match="who agreed is text in UTF-8"):
        checked_text("J\udcfcrgen", "who agreed")
