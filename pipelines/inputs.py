"""Stage `inputs`: what params name and no stage makes -> data/inputs/<section>.json, the digests that the stages depend on.

It runs every time, in half a second, so that a text that was edited or added is noticed, and what depends on it runs again.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sae import artefact
from sae.config import override, read_params
from sae.errors import SaeError
from sae.paths import given
from sae.source.named import Digests

FOLDER = Path("data/inputs")
WEIGHTS = ("run.json", "config.json", "*.safetensors", "*.pth", "*.pt")
"""What is read of a transformer's folder; the record of one of our own names the digests of all its files."""


def main(params: dict[str, Any], sections: Iterable[str]) -> None:
    """Write the file of each of `sections`; one whose content would be the same is not touched."""
    digests = Digests(FOLDER / "known.json")
    for name in sections:
        section = params.get(name)
        files = NAMED[name](section) if isinstance(section, dict) else []
        text = json.dumps(digests.of(files), indent=1, sort_keys=True) + "\n"
        target = FOLDER / f"{name}.json"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            artefact.write_text(target, text)
    digests.keep()


def of_corpus(section: dict[str, Any]) -> list[Path]:
    """Files that a glob of `corpus.files` names."""
    patterns = section.get("files")
    if section.get("source") != "files" or not isinstance(patterns, list):
        return []
    from sae.source.corpus_files import matching  # pyarrow takes time to import, and other sources need none

    return [Path(path) for pattern in patterns if isinstance(pattern, str) for path in matching(pattern)]


def of_tokens(section: dict[str, Any]) -> list[Path]:
    """The array of ids and its mask, or the files of a tokenizer that lies in a folder."""
    if section.get("source") == "ids":
        return [*_there(section.get("path")), *_there(section.get("predicted_mask"))]
    tokenizer = section.get("tokenizer")
    if not isinstance(tokenizer, str) or not given(tokenizer).is_dir():
        return []
    from sae.source.tokenizer import TOKENIZER_FILES  # tokenizers takes time to import, and this runs at every `dvc repro`

    return _within(tokenizer, TOKENIZER_FILES)


def of_transformer(section: dict[str, Any]) -> list[Path]:
    """Weights and config in a folder."""
    return _within(section.get("path"), WEIGHTS) if section.get("source") == "folder" else []


def of_features(section: dict[str, Any]) -> list[Path]:
    """The records of the dictionary that `features.other` names and of its transformer."""
    other = section.get("other")
    if not isinstance(other, str) or not other:
        return []
    from sae.dictionary.disk import dictionary_path
    from sae.library import Place

    place = Place(dictionary=dictionary_path(other))
    return [path for folder in (place.dictionary, place.transformer) for path in _there(str(folder / artefact.RUN_FILE))]


NAMED = {"corpus": of_corpus, "tokens": of_tokens, "transformer": of_transformer, "features": of_features}
"""Section of params.yaml to what names its files. What is not there is left out: the stage that reads it says so."""


def _there(path: object) -> list[Path]:
    if not isinstance(path, str) or not path or not given(path).is_file():
        return []
    return [given(path)]


def _within(folder: object, patterns: Iterable[str]) -> list[Path]:
    if not isinstance(folder, str) or not folder or not given(folder).is_dir():
        return []
    return sorted({file for pattern in patterns for file in given(folder).glob(pattern) if file.is_file()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipelines.inputs", description=__doc__)
    parser.add_argument("sections", nargs="+", choices=sorted(NAMED))
    parser.add_argument("--params", default="params.yaml", metavar="PATH", help="the file of parameters")
    parser.add_argument("--set", default=[], action="append", metavar="SECTION.KEY=VALUE", help="as for the other stages")
    asked = parser.parse_args()
    try:
        main(override(read_params(asked.params), asked.set), asked.sections)
    except SaeError as error:
        print(f"inputs: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
