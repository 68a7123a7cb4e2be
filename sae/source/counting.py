"""Which predictions of contexts of ids count: not those of padding, nor of symbols that come by chance (the digits of a sum).

Said of tokens, as training scripts say it: a token counts where its prediction does. The store says it of positions: position t
counts where the prediction made there, of token t + 1, does (`Contexts.counts`).
"""

from typing import NamedTuple

import numpy as np

from sae.errors import ConfigError, CorpusError
from sae.paths import given
from sae.shapes import Counts, TokenArray
from sae.source.contexts import TokensConfig


class Counting(NamedTuple):
    """What `tokens.pad`, `tokens.predicted` and `tokens.predicted_mask` say of some contexts."""

    pad: int | None
    predicted: tuple[int, int]
    """The first and the last position of the tokens that count."""
    mask: np.ndarray | None
    """[context, position], of whole numbers or bool: other than 0 where a token counts."""
    bos: bool
    """Whether position 0 is BOS, which is no padding even where it has the same id."""

    @classmethod
    def of(cls, config: TokensConfig, rows: TokenArray, remainder: int) -> "Counting | None":
        """For the contexts `rows`; `remainder` ids at the end of the array filled none. None where everything counts.

        Raises `ConfigError` for positions that the contexts do not have, `CorpusError` for a mask that does not fit the array.
        """
        if config.pad is None and config.predicted is None and not config.predicted_mask:
            return None
        last = rows.shape[1] - 1
        first_position, last_position = config.predicted or (1, last)
        if last_position > last:
            raise ConfigError(
                f"'predicted' = [{first_position}, {last_position}], but the contexts of {config.path} have the positions "
                f"0 to {last}"
            )
        mask = _mask(config, rows, remainder) if config.predicted_mask else None
        return cls(config.pad, (first_position, last_position), mask, bool(config.bos))

    def counts(self, tokens: TokenArray, which: np.ndarray) -> Counts:
        """Of the contexts number `which`, whose ids are `tokens`: the positions that count [context, position].

        The last one never does: it predicts nothing."""
        counts = np.zeros(tokens.shape, bool)
        first, last = self.predicted
        counts[:, first - 1 : last] = True
        if self.pad is not None:
            real = tokens != self.pad
            if self.bos:
                real[:, 0] = True
            counts[:, :-1] &= real[:, :-1] & real[:, 1:]
        if self.mask is not None:
            counts[:, :-1] &= self.mask[which][:, 1:] != 0
        return counts


def _mask(config: TokensConfig, rows: TokenArray, remainder: int) -> np.ndarray:
    """The mask at `config.predicted_mask` as rows, mapped into memory."""
    path = given(config.predicted_mask)
    try:
        mask = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ConfigError(f"tokens.predicted_mask = {config.predicted_mask!r}: no such file here; give an .npy file") from None
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path} is no .npy array ({error}); write it with numpy.save") from None
    if not isinstance(mask, np.ndarray) or not (mask.dtype == bool or np.issubdtype(mask.dtype, np.integer)):
        found = mask.dtype if isinstance(mask, np.ndarray) else "an archive of arrays"
        raise CorpusError(f"{path} holds {found}; a mask is of bool, or of whole numbers, 0 where a token does not count")
    one_dimensional = (rows.size + remainder,)
    if mask.shape == one_dimensional:
        mask = mask[: rows.size].reshape(rows.shape)
    if mask.shape != rows.shape:
        raise CorpusError(
            f"{path} has the shape {list(mask.shape)}, the ids of {config.path} make {list(rows.shape)}: a mask has an entry for "
            "every id"
        )
    return mask
