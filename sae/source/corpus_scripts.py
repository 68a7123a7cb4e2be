"""Running text in other scripts than Latin, composed of sentence frames and Unicode's CLDR data (Babel)."""

import datetime
import random
import re
from collections.abc import Callable, Iterator
from typing import Literal

from sae.errors import needs
from sae.source import corpus_sentences, corpus_sentences_more
from sae.source.corpus_document import Document, n_bytes

with needs("pipeline"):
    from babel import Locale, dates, lists, numbers, units

LOCALES = {
    "arabic": "ar_EG", "hebrew": "he", "russian": "ru", "greek": "el", "chinese": "zh", "japanese": "ja", "korean": "ko",
    "hindi": "hi", "bengali": "bn", "tamil": "ta", "thai": "th", "armenian": "hy", "georgian": "ka", "amharic": "am",
}  # fmt: skip
"""Kind -> CLDR's locale. One language stands for a script; none of them shares its script with another."""

_NATIVE_DIGITS = {
    "arabic": ("٠١٢٣٤٥٦٧٨٩", 0.8),
    "bengali": ("০১২৩৪৫৬৭৮৯", 0.8),
    "hindi": ("०१२३४५६७८९", 0.4),
    "thai": ("๐๑๒๓๔๕๖๗๘๙", 0.3),
}
"""Digits, and the share of documents that are written with them."""
_UNSPACED = ("chinese", "japanese")
_CAPITALS = ("russian", "greek", "armenian")  # Georgian has capitals in Unicode, which nobody begins a sentence with
_INVISIBLE = re.compile("[\u061c\u200b\u200e\u200f]")
_LATIN = re.compile("[A-Za-z]")
_CURRENCIES = (
    "USD",
    "EUR",
    "JPY",
    "GBP",
    "EGP",
    "ILS",
    "RUB",
    "CNY",
    "KRW",
    "INR",
    "THB",
    "GEL",
    "AMD",
    "ETB",
    "TRY",
    "SEK",
    "CHF",
)
_DISTANCES = ("length-kilometer", "length-meter", "length-mile")
Length = Literal["long", "short"]
_WEIGHTS = ("mass-kilogram", "mass-gram", "mass-tonne", "mass-pound")


def _sentences(kind: str) -> tuple[dict[str, list[str]], list[str]]:
    """The words by key and the frames of a language."""
    block = getattr(corpus_sentences, kind.upper(), None) or getattr(corpus_sentences_more, kind.upper())
    words: dict[str, list[str]] = {}
    frames = []
    for line in block.strip().splitlines():
        if line.startswith("- "):
            frames.append(line[2:])
        else:
            key, _, rest = line.partition(": ")
            words.setdefault(key, []).extend(rest.split(" / "))
    return words, frames


class _Filler:
    """Fills the slots of frames: `frame.format_map(filler)` asks it for each slot, left to right."""

    def __init__(self, kind: str, rng: random.Random):
        self.locale, self.rng = Locale.parse(LOCALES[kind]), rng
        self._words, self._frames = _sentences(kind)
        self._capitals = kind in _CAPITALS
        self._last = ""
        locale, zones = self.locale, self.locale.time_zones
        territories = (locale.territories[code] for code in sorted(locale.territories) if len(code) == 2)
        self._pools = {
            "territory": _written(territories),
            "language": _written(locale.languages[code] for code in sorted(locale.languages) if len(code) <= 3),
            "script": _written(locale.scripts[code] for code in sorted(locale.scripts)),
            "currency": _written(locale.currencies[code] for code in sorted(locale.currencies)),
            "city": _written(zones[name].get("city") for name in sorted(zones)),
            "month": [locale.months["format"]["wide"][i] for i in range(1, 13)],
            "weekday": [locale.days["format"]["wide"][i] for i in range(7)],
            **self._words,
        }
        distances, weights = (self._known(names) for names in (_DISTANCES, _WEIGHTS))
        self._lists = {"territories": "territory", "languages": "language", "cities": "city"}
        self._written_by: dict[str, Callable[[], str]] = {
            "date": self._date, "time_of_day": self._time, "duration": self._duration, "relative": self._relative,
            "year": lambda: str(rng.randint(1850, 2030)), "number": lambda: self._number(rng.choice((20, 900, 9000, 3_000_000))),
            "money": self._money,
            "percent": lambda: numbers.format_percent(rng.randint(1, 990) / 1000, "#,##0.#%", locale=locale),
            "distance": lambda: self._unit(distances, 2000), "weight": lambda: self._unit(weights, 500),
        }  # fmt: skip
        self._clock = "HH:mm" if _LATIN.search(dates.format_time(datetime.time(9), "short", locale=locale)) else "short"

    def __getitem__(self, slot: str) -> str:
        if slot in self._pools:
            self._last = self.rng.choice([name for name in self._pools[slot] if name != self._last])
            return self._last
        if slot in self._lists:
            return str(
                lists.format_list(self.rng.sample(self._pools[self._lists[slot]], self.rng.randint(2, 5)), locale=self.locale)
            )
        return self._written_by[slot]()

    def _number(self, most: int) -> str:
        return numbers.format_decimal(self.rng.randint(2, most), locale=self.locale)

    def _known(self, names: tuple[str, ...]) -> list[tuple[str, Length]]:
        """Those units, long or else short, that the locale really names (Babel falls back on the English identifier)."""
        lengths: tuple[Length, ...] = ("long", "short")
        pairs = [(name, length) for length in lengths for name in names]
        named = [pair for pair in pairs if not _LATIN.search(units.format_unit(9, *pair, locale=self.locale))]
        return [pair for pair in named if pair[1] == named[0][1]]

    def _unit(self, known: list[tuple[str, Length]], most: int) -> str:
        return units.format_unit(self.rng.randint(2, most), *self.rng.choice(known), locale=self.locale)

    def _money(self) -> str:
        amount, currency = self.rng.randint(2, 20_000), self.rng.choice(_CURRENCIES)
        return numbers.format_currency(
            amount, currency, locale=self.locale, format_type="name", currency_digits=False, format="0"
        )

    def _date(self) -> str:
        day = datetime.date(1950, 1, 1) + datetime.timedelta(days=self.rng.randrange(30_000))
        return dates.format_date(day, self.rng.choice(("full", "long", "long")), locale=self.locale)

    def _time(self) -> str:
        return dates.format_time(
            datetime.time(self.rng.randrange(24), self.rng.randrange(0, 60, 5)), self._clock, locale=self.locale
        )

    def _delta(self) -> datetime.timedelta:
        days = self.rng.choice((1 / 24, 1, 7, 30, 365))
        return datetime.timedelta(days=days * self.rng.randint(2, 9))

    def _duration(self) -> str:
        return dates.format_timedelta(self._delta(), threshold=1.5, locale=self.locale)

    def _relative(self) -> str:
        return dates.format_timedelta(-self._delta(), threshold=1.5, add_direction=True, locale=self.locale)

    def sentence(self) -> str:
        """One frame, filled."""
        text = self.rng.choice(self._frames).format_map(self)
        return text[0].upper() + text[1:] if self._capitals else text


def _written(names: Iterator[str | None]) -> list[str]:
    """The names that hold no Latin letters, once each."""
    return list(dict.fromkeys(name for name in names if name and not _LATIN.search(name)))


def _document(filler: _Filler, between: str, size: int) -> str:
    """Paragraphs of a few sentences; some documents begin with a headline, some hold a list of dated lines."""
    rng, paragraphs, written = filler.rng, [], 0
    if rng.random() < 0.3:
        paragraphs.append(
            f"{filler['city']}، {filler['date']}" if filler.locale.language == "ar" else f"{filler['city']}, {filler['date']}"
        )
    dated = rng.random() < 0.15
    while written < size:
        if dated:
            paragraph = "\n".join(f"{filler['date']}: {filler.sentence()}" for _ in range(rng.randint(2, 5)))
        else:
            paragraph = between.join(filler.sentence() for _ in range(rng.randint(2, 6)))
        paragraphs.append(paragraph)
        written += n_bytes(paragraph)
    return "\n\n".join(paragraphs) + "\n"


def script_texts(kind: str, rng: random.Random) -> Iterator[Document]:
    """Endless documents of 150 to 1000 bytes or a little more in the language of `kind`, nearly all in its script.

    Short, so that even a rare kind has dozens of held-out documents: examples are deduplicated by document."""
    filler = _Filler(kind, rng)
    digits, share = _NATIVE_DIGITS.get(kind, ("0123456789", 0.0))
    native = str.maketrans("0123456789", digits)
    while True:
        text = _INVISIBLE.sub("", _document(filler, "" if kind in _UNSPACED else " ", rng.randint(150, 500)))
        if rng.random() < share:
            text = text.translate(native)
        yield Document(text, kind, f"composed/cldr/{filler.locale.language}")
