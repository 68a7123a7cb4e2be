"""Files of a repository on the Hugging Face hub, from its local cache first: with a filled cache nothing here needs a network.

(transformer_lens's own loader of the legacy one-layer repositories asks the hub for a list of files even then, and
where there is no network, transformers and, at a commit, `snapshot_download` retry for 23 s; `model_info` fails at once.)
"""

from pathlib import Path

from sae.errors import ConfigError, UnavailableError, needs

with needs("pipeline"):
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

SECONDS_TO_ANSWER = 10.0


def snapshot(name: str, revision: str, *, patterns: tuple[str, ...], needed: tuple[str, ...] = ("config.json",)) -> Path:
    """The folder with the files of repository `name` at `revision`; its own name is the commit.

    Downloads those that match `patterns` where the cache has no file for one of the glob patterns `needed`.
    Raises `UnavailableError` where the hub cannot be reached and the cache does not hold them, `ConfigError` for a
    repository or revision that is none.
    """
    wanted = list(patterns)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=True))
        if all(any(folder.glob(pattern)) for pattern in needed):
            return folder
    except HFValidationError as error:
        raise ConfigError(f"'{name}' is no name of a repository on the hub: {error}") from None
    except OSError:
        pass  # not in the cache, or not all of it
    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS_TO_ANSWER)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError(f"the hub gives out no {name} at revision {revision}: {error}") from None
    except (OSError, HTTPError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(_how_to_fill(name, revision, patterns, cause)) from None
    for pattern in needed:
        if not any(folder.glob(pattern)):
            raise ConfigError(f"{name} at revision {revision} holds no file {pattern}: nothing that can be loaded from it")
    return folder


def _how_to_fill(name: str, revision: str, patterns: tuple[str, ...], cause: str) -> str:
    included = " ".join(f"--include '{pattern}'" for pattern in patterns)
    return (
        f"{name} at revision {revision} is not in the hub's local cache, and the hub is out of reach ({cause}). Where there is a "
        f"network, run: hf download {name} --revision {revision} {included}; then copy the cache, the folder that HF_HOME names "
        "(~/.cache/huggingface by default), to this machine"
    )
