"""Text in other scripts than Latin, composed from Unicode's CLDR data (Babel)."""

import datetime
import random
from collections.abc import Iterator

from babel import Locale, dates, lists, numbers, units

from sae.source.corpus_document import Document

LOCALES = {
    "arabic": "ar_EG", "hebrew": "he", "russian": "ru", "greek": "el", "chinese": "zh", "japanese": "ja", "korean": "ko",
    "hindi": "hi", "bengali": "bn", "tamil": "ta", "thai": "th", "armenian": "hy", "georgian": "ka", "amharic": "am",
}  # fmt: skip


def script_texts(kind: str, rng: random.Random) -> Iterator[Document]:
    """Endless."""
    locale = Locale.parse(LOCALES[kind])
    while True:
        size, text = rng.randint(400, 1600), ""
        while len(text.encode()) < size:
            day = datetime.date(2000, 1, 1) + datetime.timedelta(days=rng.randrange(12000))
            names = rng.sample([n for c, n in sorted(locale.territories.items()) if len(c) == 2], 3)
            text += rng.choice((
                dates.format_date(day, "full", locale=locale) + ": " + lists.format_list(names, locale=locale),
                units.format_unit(rng.randint(2, 900), rng.choice(("length-kilometer", "mass-kilogram", "duration-hour")), locale=locale),
                numbers.format_currency(rng.randint(3, 9999), rng.choice(("USD", "EUR", "JPY")), locale=locale, format_type="name"),
            )) + rng.choice((". ", ", ", ".\n"))  # fmt: skip
        yield Document(text, kind, f"composed/cldr/{locale}")
