"""Words of any language, for metrics that count them.

A word is letters and digits in a row with the marks that combine with them, such as the vowel
signs of Hindi. In scripts that put nothing between words, such as Chinese and Thai, each letter is
one. Where a text has no word, as emojis and signs, each sign is one.
"""

from __future__ import annotations

import unicodedata

import regex

_TOGETHER = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Javanese}\p{Tibetan}"
)
# A prolonged sound mark belongs to no script; joiners stand within words.
_LETTER = rf"[{_TOGETHER}\u30fc\uff70]\p{{M}}*"
_APART = rf"(?![{_TOGETHER}])"
_WORD = rf"{_APART}[\p{{L}}\p{{N}}](?:{_APART}[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d])*"
# Punctuation of a script is no word.
_LETTERS = regex.compile(rf"(?=[\p{{L}}\p{{N}}]){_LETTER}")
_SIGNS = regex.compile(r"(?!\s)\X")
_WORDS = regex.compile(rf"{_LETTERS.pattern}|{_WORD}")


def words(text: str) -> list[str]:
    """All words in lower case; equal ones are equal however their marks are written."""
    normal = unicodedata.normalize("NFC", text.lower())
    return _WORDS.findall(normal) or _SIGNS.findall(normal)


def separated(text: str) -> str:
    """The text with each letter of scripts without spaces between words set apart."""
    return _LETTERS.sub(r" \g<0> ", unicodedata.normalize("NFC", text))
