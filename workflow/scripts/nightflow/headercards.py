"""Cards of FITS headers as they stand in a file: keywords, values, and how long the data behind them are.

Read so in a tenth of the time that a general reader takes, and whatever breaks the standard.
"""

from __future__ import annotations

import math
import re

BLOCK, _CARD = 2880, 80  # bytes, of the FITS standard
_LONGEST_HEADER = 1 << 24  # bytes
_LONGEST_TEXT = 1000  # characters of a value, over all its cards
_MOST_AXES = 999


def read_cards(stream, block: bytes) -> tuple[dict, int]:
    """Keywords and values of the header that starts with `block`, and its length in bytes.

    The first of several cards with one keyword counts. What breaks the standard is taken for text, so that comma
    decimals and unquoted words come through.

    Raises
    ------
    ValueError
        If the header has no END.
    """
    values, length, continued = {}, 0, None
    while len(block) >= _CARD:
        length += BLOCK
        text = block.decode("latin-1")
        for start in range(0, len(text), _CARD):
            card = text[start : start + _CARD]
            if card.startswith("END") and not card[3:].strip():
                return values, length
            continued = _add_card(values, card, continued)
        if length > _LONGEST_HEADER:
            break
        block = stream.read(BLOCK)
    raise ValueError("the header has no END")


def _add_card(values: dict, card: str, continued: str | None) -> str | None:
    """Enter a card into `values`; the keyword whose text goes on in the next card, if any."""
    keyword = card[:8].rstrip()
    if card[8:10] == "= ":
        text = card[10:]
    elif keyword == "CONTINUE" and continued:
        rest = _card_value(card[8:])
        values[continued] = values[continued].removesuffix("&") + str(rest or "")
        goes_on = str(rest).endswith("&") and len(values[continued]) < _LONGEST_TEXT
        return continued if goes_on else None
    elif keyword == "HIERARCH" and "=" in card:
        keyword, _, text = card[9:].partition("=")
        keyword = keyword.strip()
    else:
        return None
    if keyword in values:
        return None
    value = _card_value(text)
    if value is not None:
        values[keyword] = value
    return keyword if isinstance(value, str) and value.endswith("&") else None


_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?")


def _card_value(text: str) -> bool | int | float | str | None:
    quoted = _QUOTED.match(text)
    if quoted:
        return quoted[1].replace("''", "'").rstrip()
    word = text.partition("/")[0].strip()
    if word in ("T", "F"):
        return word == "T"
    if _INTEGER.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word):
        return float(word.upper().replace("D", "E"))
    return word or None


def _integer(cards: dict, keyword: str, default: int) -> int:
    value = cards.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{keyword} = {value!r} is no whole number")
    return value


def axes_of(cards: dict, prefix: str = "") -> list[int]:
    """Lengths of the axes, the fastest first; `prefix` is ``Z`` for those of a compressed image.

    Raises
    ------
    ValueError
        If they are no whole numbers, or too many.
    """
    number = _integer(cards, f"{prefix}NAXIS", 0)
    if number > _MOST_AXES:
        raise ValueError(f"NAXIS = {number} is more than FITS allows")
    return [_integer(cards, f"{prefix}NAXIS{i}", 0) for i in range(1, number + 1)]


def data_bytes(cards: dict) -> int:
    """Bytes of the data behind a header; `ValueError` as for `axes_of`."""
    axes = axes_of(cards)
    if not axes or min(axes) < 0:
        return 0
    elements = math.prod(axes) + _integer(cards, "PCOUNT", 0)
    return max(abs(_integer(cards, "BITPIX", 8)) // 8 * _integer(cards, "GCOUNT", 1) * elements, 0)


def whole_blocks(size: int) -> int:
    """`size` in bytes with what fills the last block."""
    return -(-size // BLOCK) * BLOCK
