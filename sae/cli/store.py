"""`sae store ...`: the commands for activation stores. Heavy imports stand inside, as in `cli`."""

from pathlib import Path
from typing import Annotated

import typer

from sae.errors import StoreError

store = typer.Typer(help="Activation stores: what one holds, whether it is whole, and repair.", no_args_is_help=True)
StorePath = Annotated[Path, typer.Argument(help="The folder of an activation store, such as data/A/activations.")]
StorePlace = Annotated[str, typer.Argument(help="The folder of an activation store, or its URL: s3://, gs:// or az://.")]
Url = Annotated[str, typer.Argument(help="Of the store in a bucket, such as s3://bucket/A/activations.")]


@store.command("info")
def store_info(path: StorePlace) -> None:
    """What a store holds and where it came from; of an unfinished one, how far it is."""
    from sae.storage.upkeep import describe

    print_rows(describe(path))


@store.command("verify")
def store_verify(path: StorePlace) -> None:
    """Compare every file of a store with its digest; name each that is damaged, and those that are no part of it."""
    from sae.storage.upkeep import verify

    damages = verify(path)
    for damage in damages:
        typer.echo(f"{path}/{damage.file} {damage.why}")
    if damages:
        raise StoreError(f"{len(damages)} files of {path} are not as committed; mend it with: sae store repair {path}")
    typer.echo(f"{path} is whole")


@store.command("push")
def store_push(
    path: StorePath,
    url: Url,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of another store there.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Then remove the shards here; they are fetched when they are read.")
    ] = False,
) -> None:
    """Put a store into a bucket: what is not there yet, or is damaged there; its record last."""
    from sae.storage.transfer import push

    done = push(path, url, replace=replace, drop=drop)
    typer.echo(f"{url} is whole: {done.n_sent:,} of {done.n_files:,} files sent ({done.n_bytes:,} bytes), the others were there")


@store.command("pull")
def store_pull(
    url: Url,
    path: StorePath,
    record_only: Annotated[
        bool, typer.Option("--record-only", help="Leave the shards; they are fetched when they are read.")
    ] = False,
) -> None:
    """Fetch a store from a bucket into a folder: what is not there yet, or is damaged there."""
    from sae.storage.transfer import pull

    n_files = pull(url, path, record_only=record_only)
    typer.echo(f"{path} is the store at {url}{', its shards left there' if record_only else f', {n_files:,} files, whole'}")


@store.command("repair")
def store_repair(
    path: StorePath,
    transformer: Annotated[Path | None, typer.Option(help="By default the folder `transformer` beside the store.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="By default the folder `tokens` beside the store's parent.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...; as the store says, bits differ between them.")] = "",
) -> None:
    """Harvest again only what is damaged; it is put back only where it is what was committed, bit for bit."""
    from sae.storage.linked import refuse_url

    refuse_url(path)
    from sae import artefact
    from sae.device import to_device
    from sae.paths import given
    from sae.repair import repair
    from sae.source.transformer import load_source
    from sae.storage.tokens import TokenStore

    path = given(path)
    run = artefact.read_run(path, "activations", made_by="dvc repro harvest")
    transformer = given(transformer) if transformer else path.resolve().parent / "transformer"
    tokens = given(tokens) if tokens else path.resolve().parent.parent / "tokens"
    for parent, kind in ((transformer, "transformer"), (tokens, "tokens")):
        artefact.read_run(parent, kind)
        if artefact.digest(parent) not in run.parents.values():
            raise StoreError(f"{path} was not made from {parent} as it is now; give the one that it was, with --{kind}")
    opened = TokenStore.open(tokens)
    done = repair(path, load_source(transformer, to_device(device or run.device)), opened.split("train"), opened.bos)
    for name in done.files:
        typer.echo(f"{path / name} is mended")
    typer.echo(f"{path}: {len(done.files)} files mended, {done.n_contexts:,} contexts harvested again")
    if done.strays:
        raise StoreError(f"{', '.join(done.strays)} in {path}: no part of the store; move what is yours elsewhere")


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Labels and values, one below the other."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        typer.echo(f"{label:<{width}}  {value}".rstrip())
