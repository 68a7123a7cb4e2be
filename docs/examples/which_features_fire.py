"""Which features fire on a sentence, and what they are: `python docs/examples/which_features_fire.py "Some text"`.

Run it from the folder that holds `data/`, after `make repro`. The command `sae features A/1 --text "Some text"` does the same.
"""

import sys

import sae
from sae.features.feature import printable
from sae.features.reading import Reader
from sae.library import locate
from sae.source.transformer import load_source

text = sys.argv[1] if len(sys.argv) > 1 else "def area(radius): return 3.14159 * radius ** 2"
dictionary, place = sae.load("A/1"), locate("A/1")
reader = Reader(sae.TokenStore.open(place.tokens), load_source(place.transformer), dictionary)

reading = reader.read(text)
for position, token in enumerate(reading.tokens):
    fires = ", ".join(f"{feature} ({value:.2f})" for feature, value in reading.strongest(position, 4))
    print(f"{printable(token):<16} {fires}")

strongest = int(reading.activations.max(0).values.argmax())
print(f"\nThe strongest of them:\n{dictionary.feature(strongest)}")
