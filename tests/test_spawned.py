"""A worker that is really spawned, as a DataLoader's are on macOS, reads with a loaded dictionary and its table."""

import torch
from torch.utils.data import DataLoader, Dataset

import sae
from sae.library import Lookup
from tests.web.toy_project import make


class Firing(Dataset):
    """For each row what fires, and what the table says of the feature of its number."""

    def __init__(self, dictionary, rows):
        self.dictionary, self.rows = dictionary, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.dictionary.encode(self.rows[i : i + 1])[0], str(self.dictionary.feature(i))


def test_a_spawned_worker_uses_a_loaded_dictionary_with_its_table(tmp_path):
    loaded = sae.load("A/1", make(tmp_path))
    assert isinstance(loaded.describe, Lookup)
    here = Firing(loaded, torch.randn(6, 16, generator=torch.Generator().manual_seed(0)))
    expected = [here[i] for i in range(6)]  # the table is open now
    there = DataLoader(here, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for (f, words), (own, said) in zip(there, expected, strict=True):
        torch.testing.assert_close(f, own)
        assert words == said
        assert words.startswith("A/1/")
    assert loaded.run.facts["n_steps"] == 12345
