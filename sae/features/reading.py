"""Which features fire on a text of one's own."""

from typing import NamedTuple

import torch
from torch import Tensor

from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.passes import encode
from sae.source.site import ActivationSource
from sae.source.tokenizer import read_tokenizer
from sae.storage.tokens import TokenStore


class Reading(NamedTuple):
    """A text as one dictionary sees it."""

    ids: list[int]
    """Token ids, BOS left out."""
    tokens: list[bytes]
    """Their bytes; a token may be part of a character."""
    activations: Tensor
    """Feature activations [token, feature], on the CPU."""
    n_contexts: int
    """Contexts that the text was cut into; the first tokens of each see nothing of what is before."""

    def strongest(self, token: int, n: int) -> list[tuple[int, float]]:
        """The (at most) `n` features that fire most on one token, with their activations, strongest first."""
        values, features = self.activations[token].topk(min(n, self.activations.shape[1]))
        return [(int(i), float(value)) for i, value in zip(features, values, strict=True) if value > 0]


class Reader:
    """Reads text through a tokenizer, a transformer and a dictionary. Raises `ConfigError` for tokens without a tokenizer."""

    def __init__(self, tokens: TokenStore, source: ActivationSource, dictionary: Dictionary):
        if tokens.tokenizer_path is None:
            raise ConfigError(f"{tokens.path} was made from token ids: it has no tokenizer to read text with")
        self.tokens, self.source, self.dictionary = tokens, source, dictionary
        self.tokenizer = read_tokenizer(tokens.tokenizer_path)

    def ids(self, text: str) -> list[int]:
        """Its token ids, BOS left out. Raises `ConfigError` where the text has no token, or is no text (half characters from a
        terminal)."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"the text is not UTF-8, at character {error.start}; give it in UTF-8") from None
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise ConfigError("the text is empty: there is no token to read")
        return ids

    @torch.no_grad()
    def read(self, text: str) -> Reading:
        """Feature activations on every token of `text`. BOS stands before each context, as in the token store.

        Raises `ConfigError` as `ids` does.
        """
        ids = self.ids(text)
        start = [] if self.tokens.bos is None else [self.tokens.bos]
        size = min(self.tokens.context_length, self.source.context_length) - len(start)
        found = []
        for first in range(0, len(ids), size):
            context = torch.tensor([start + ids[first : first + size]], device=self.source.device)
            rows = self.source.activations(context)[0, len(start) :]
            found.append(encode(self.dictionary, rows).cpu())
        return Reading(ids, [self.tokens.vocabulary[i] for i in ids], torch.cat(found), len(found))
