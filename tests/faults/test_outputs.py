"""A file of any stage's output is damaged: whoever reads the output says so, with an error of ours, and never gives it out."""

import random
from collections import Counter
from pathlib import Path

import pytest

import sae
from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.errors import StoreError
from sae.features.table import FeatureTable
from sae.provenance import Run
from sae.source.corpus_document import Document, read_documents, write_documents
from sae.storage.activations import ActivationStore
from sae.storage.tokens import TokenStore
from tests.features.toy import random_dictionary
from tests.support.stores import make_tokens
from tests.support.toy_harvest import toy_harvest


def read_store(path: Path) -> None:
    store = ActivationStore.open(path)
    assert len(store[:]) == len(store.origin())


def read_transformer(path: Path) -> None:
    from sae.source.transformer import load_source  # seconds to import

    load_source(path)


def read_all(path: Path) -> None:
    """As the readers of reports and pages do: the record, and every file that it names."""
    kind = Run.from_json(KINDS[path]).kind
    artefact.verify(path, artefact.read_run(path, kind))


KINDS: dict[Path, str] = {}
READERS = {
    "corpus": lambda path: list(read_documents(path)),
    "tokens": TokenStore.open,
    "transformer": read_transformer,
    "activations": read_store,
    "dictionary": lambda path: (read_dictionary(path), read_all(path)),
    "features": FeatureTable.open,
}
"""By the kind of artefact; the others are read by `read_all`."""


def artefacts(project: Path) -> list[Path]:
    """All that stages committed below a project's folder."""
    return sorted(record.parent for top in ("data", "reports") for record in (project / top).rglob(artefact.RUN_FILE))


def damaged(content: bytes, other: bytes, how: str, chance: random.Random) -> bytes | None:
    """What is in the file then; None where it is gone."""
    match how:
        case "bit":
            at = chance.randrange(len(content))
            return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        case "cut":
            return content[: chance.randrange(len(content))]
        case "longer":
            return content + b"\n"
        case "zeros":
            return bytes(len(content))
        case "other":
            return other
    return None


def damage(project: Path, n: int, seed: int) -> Counter[str]:
    """Damage `n` files of all artefacts in turn, each restored afterwards; how often each kind of artefact noticed it, and of how
    many it was given out (`SILENT`) or ended in an error that is none of ours (`traceback`)."""
    chance, seen = random.Random(seed), Counter[str]()
    places = artefacts(project)
    for place in places:
        KINDS[place] = (place / artefact.RUN_FILE).read_text(encoding="utf-8")
    for i in range(n):
        place = places[i % len(places)]
        files = sorted(file for file in place.rglob("*") if file.is_file() and file.stat().st_size)
        file, other = chance.choice(files), chance.choice(files)
        content, how = file.read_bytes(), chance.choice(("bit", "cut", "longer", "zeros", "other", "gone"))
        instead = damaged(content, other.read_bytes(), how, chance)
        if instead == content:
            instead = None
        file.unlink()  # it may be linked to from elsewhere
        if instead is not None:
            file.write_bytes(instead)
        seen[noticed(place, f"{file.relative_to(project)}, {how}")] += 1
        file.write_bytes(content)
    assert all(noticed(place, "").startswith("SILENT") for place in places), "they are whole again"
    return seen


def noticed(place: Path, what: str) -> str:
    kind = Run.from_json(KINDS[place]).kind
    try:
        READERS.get(kind, read_all)(place)
    except StoreError:
        return kind
    except Exception as error:
        return f"traceback: {what}: {error!r}"
    return f"SILENT: {what}"


def check(seen: Counter[str]) -> None:
    wrong = {what: n for what, n in seen.items() if what.startswith(("SILENT", "traceback"))}
    print(f"\n{seen.total()} damaged files, noticed by the readers of: {dict(sorted((seen - Counter(wrong)).items()))}")
    assert not wrong


def test_a_few_outputs(tmp_path):
    with artefact.writing(tmp_path / "data/corpus", Run(kind="corpus")) as draft:
        write_documents([Document(f"text {i}", "kind", "source") for i in range(50)], draft.path)
    tokens = make_tokens(tmp_path / "data/tokens")
    toy_harvest(tmp_path / "data/A/activations", tokens)
    sae.save(random_dictionary(n_features=12, seed=0), tmp_path / "data/A/1/dictionary")
    check(damage(tmp_path, 80, seed=0))


@pytest.mark.slow
def test_all_outputs(every):
    seen = damage(every.golden, 504, seed=1)
    check(seen)
    assert len(seen) >= 15, "of every kind"
