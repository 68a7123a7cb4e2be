"""A data set of the Hugging Face hub as documents, streamed: the one door to `datasets`."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from sae.errors import ConfigError, CorpusError, UnavailableError, needs
from sae.source.corpus_document import Document, in_parts
from sae.source.corpus_files import to_document

with needs("pipeline"):
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

_PATIENCE = 6.0
"""Seconds that the hub is given to answer at all."""


class HubText(NamedTuple):
    """What to read of the hub; the fields are `CorpusConfig`'s."""

    dataset: str
    revision: str
    """A full commit."""
    config: str
    """Empty for the data set's own default."""
    split: str
    column: str


def read_hub(wanted: HubText, max_documents: int) -> Iterator[Document]:
    """Up to `max_documents` records, streamed; from the local cache where the hub is out of reach.

    Raises `ConfigError` where the hub has no such data, `UnavailableError` where it and the cache are out of reach.
    """
    # Here, for it takes a second that every reader of documents would pay.
    with needs("pipeline"):
        import datasets
        from datasets.data_files import EmptyDatasetError
        from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    cached = _cached_snapshot(wanted)
    # By its plain name `datasets` would rather take a folder of that name in the working directory, whatever is in it.
    where, revision = (cached, None) if cached else (f"hf://datasets/{wanted.dataset}", wanted.revision)
    advice = "set corpus.text_column"
    kind = wanted.dataset.rpartition("/")[2].lower()
    try:
        records = datasets.load_dataset(where, wanted.config or None, split=wanted.split, revision=revision, streaming=True)
        for number, record in enumerate(itertools.islice(records, max_documents)):
            document = to_document(record, wanted.column, f"{wanted.dataset}:{number}", kind, advice)
            if document:
                yield from in_parts(document)
    except CorpusError:
        raise
    except (DatasetNotFoundError, DataFilesNotFoundError, EmptyDatasetError, ValueError) as error:
        raise ConfigError(
            f"{wanted.dataset} at {wanted.revision} has no such data (dataset_config '{wanted.config}', split "
            f"'{wanted.split}'): {error}"
        ) from None
    except (OSError, HTTPError) as error:
        raise _unavailable(wanted, error) from error


def _cached_snapshot(wanted: HubText) -> str:
    """The cache's folder of the pinned revision if the hub is out of reach; empty if the hub answers.

    `datasets` itself retries for 23 s before it gives up (measured, 5.2.0), and offline takes its newest cached version
    whatever the revision, so both are decided here. Raises `UnavailableError` where neither is there.
    """
    try:
        HfApi().dataset_info(wanted.dataset, revision=wanted.revision, timeout=_PATIENCE)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (400, 401, 403, 404):
            raise ConfigError(
                f"the hub has no data set {wanted.dataset} at {wanted.revision} for you ({error.response.status_code}): "
                "check the name and the commit, or log in (HF_TOKEN) if it is private or gated"
            ) from None
        unreachable: Exception = error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        unreachable = error
    except ValueError as error:
        raise ConfigError(f"dataset '{wanted.dataset}' is no name that a hub data set can have: {error}") from None
    else:
        return ""
    try:
        return snapshot_download(wanted.dataset, repo_type="dataset", revision=wanted.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise _unavailable(wanted, unreachable) from unreachable


def _unavailable(wanted: HubText, error: Exception) -> UnavailableError:
    reason = str(error).strip().splitlines()
    return UnavailableError(
        f"cannot reach the hub for data set {wanted.dataset} ({type(error).__name__}: {reason[0] if reason else 'no reason'}), "
        f"and it is not in the cache. Check the network, or fill the cache on a machine that has one (hf download --repo-type "
        f"dataset {wanted.dataset} --revision {wanted.revision}), point HF_HOME at it and set HF_HUB_OFFLINE=1"
    )
