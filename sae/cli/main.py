"""The `sae` command. Imports of torch and what needs it stand inside the commands: `sae --help` then takes 0.2 s, not 3."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sae.cli.interpret import interpret
from sae.cli.splitting import tree
from sae.cli.store import print_rows, store
from sae.cli.study import report, study
from sae.errors import ConfigError, SaeError, StoreError, disk_told, in_one_line
from sae.shown import printable_lines

if TYPE_CHECKING:
    from sae.features.reading import Reader
    from sae.library import Place


class Commands(TyperGroup):
    """A `SaeError`, or an error of input and output, becomes one line on stderr, and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with disk_told(f"running sae {ctx.invoked_subcommand or ''}".rstrip()):
                return super().invoke(ctx)
        except SaeError as error:
            warnings.simplefilter("ignore", RuntimeWarning)  # zarr's, of what it did not begin any more
            typer.echo(f"sae: {printable_lines(in_one_line(error))}", err=True)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=Commands,
    help="Look at dictionaries of features: what they are, which features fire where, and the page that shows them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(store, name="store")
app.command()(study)
app.command()(report)
app.command()(interpret)
app.command()(tree)
Name = Annotated[str, typer.Argument(help="A dictionary: its name under --root, such as A/1, or the path of its folder.")]
FeatureId = Annotated[str, typer.Argument(help="A feature, such as A/1/3450, or a dictionary's path with the number behind it.")]
Root = Annotated[Path, typer.Option(help="The folder that holds the runs.")]
DATA = Path("data")


@app.command()
def info(name: Name, root: Root = DATA) -> None:
    """What a dictionary is, where it came from, and how good it is."""
    from sae.dictionary.disk import read_dictionary
    from sae.library import locate
    from sae.storage.upkeep import processor_told
    from sae.training.health import warnings_of

    place = locate(name, root)
    dictionary = read_dictionary(place.dictionary)
    run = dictionary.run
    assert run is not None, "a dictionary that was read has a run"
    n_parameters = sum(value.numel() for value in dictionary.state_dict().values())
    rows = [
        ("dictionary", f"{run.id or name}, {dictionary.variant}"),
        ("features", f"{dictionary.n_features:,} over {dictionary.d_mlp:,} neurons ({n_parameters:,} parameters)"),
        ("transformer", _transformer(place)),
        *_quality(place),
        *(("warning", warning) for warning in warnings_of(run)),
        ("", ""),
        *((key.replace("_", " "), _short(value)) for key, value in run.facts.items() if isinstance(value, int | float | str)),
        ("seed", str(run.seed)),
        ("params", ", ".join(f"{key}={value}" for key, value in sorted(run.params.items()))),
        ("code", run.code),
        ("processor", processor_told(run.processor)),
        ("made with", ", ".join(f"{key} {value}" for key, value in sorted(run.versions.items()))),
        ("lies in", str(place.dictionary)),
    ]
    print_rows(rows)


@app.command()
def features(
    name: Name,
    text: Annotated[str, typer.Option(help="The text to read.")],
    top: Annotated[int, typer.Option(min=1, help="Features to print for each token.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    root: Root = DATA,
) -> None:
    """Which features fire on which token of a text, and how strongly."""
    from sae.shown import printable

    reading = _reader(name, root, device).read(text)
    shown = [f"'{printable(token)}'" for token in reading.tokens]
    width = min(24, max(len(token) for token in shown))
    for position, token in enumerate(shown):
        fires = reading.strongest(position, top)
        n_active = int((reading.activations[position] > 0).sum())
        more = f" … {n_active - len(fires)} more" if n_active > len(fires) else ""
        listed = "".join(f"#{feature} {value:.3g}".ljust(14) for feature, value in fires) or "no feature fires"
        typer.echo(f"{token:<{width}} {listed}{more}".rstrip())
    active = (reading.activations > 0).sum(1).float()
    typer.echo(
        f"\n{len(shown)} tokens, {active.mean():.1f} features active on each; look at one with: sae feature {name}/<number>"
    )
    if reading.n_contexts > 1:
        typer.echo(f"(read in {reading.n_contexts} contexts: the text is longer than the transformer takes at once)")


@app.command()
def feature(id: FeatureId, root: Root = DATA) -> None:
    """What is known of one feature: how often it fires, on what, and what it makes more likely."""
    from sae.library import load, split_id

    name, index = split_id(id, root)
    typer.echo(str(load(name, root).feature(index)))


@app.command()
def steer(
    id: FeatureId,
    text: Annotated[str, typer.Option(help="What is continued.")] = "1,2,3,4,5,6,7,8,9,10",
    value: Annotated[float | None, typer.Option(help="By default the feature's largest observed activation.")] = None,
    scale: Annotated[float, typer.Option(help="The value is multiplied by it.")] = 1.0,
    without: Annotated[bool, typer.Option("--without", help="Ablate the feature: hold it at 0.")] = False,
    n_tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens to write.")] = 60,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws; the same for both continuations.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    root: Root = DATA,
) -> None:
    """Continue a text with one feature held at a value at every token, beside what is written without that."""
    from sae.causal.steering import Steering
    from sae.causal.steering import steer as steer_feature
    from sae.library import split_id

    name, index = split_id(id, root)
    if without and value is not None:
        raise ConfigError("--without holds the feature at 0 and --value elsewhere; give one of them")
    reader = _reader(name, root, device)
    if value is None:
        value = 0.0 if without else float(reader.dictionary.feature(index).max_activation)
    steering = Steering(text=text, n_tokens=n_tokens, temperature=temperature, seed=seed)
    typer.echo(str(steer_feature(reader, index, scale * value, steering)))


@app.command()
def universality(
    first: Name,
    second: Name,
    tokens: Annotated[int, typer.Option(min=2, help="Held-out tokens to read.")] = 393_216,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    root: Root = DATA,
) -> None:
    """Whether two dictionaries, of one transformer or of two on the same tokens, learned the same features."""
    from sae.features.universality import UniversalityConfig, compare, told
    from sae.library import locate, open_sides
    from sae.storage.tokens import TokenStore

    config = UniversalityConfig(n_tokens=tokens)
    store = TokenStore.open(locate(first, root).tokens)
    found = compare(*open_sides(first, second, root, device), store, config)
    typer.echo(told(found, found.summary(config)))


@app.command()
def browse(
    name: Name,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser, or only print where it is.")] = True,
    root: Root = DATA,
) -> None:
    """Print the path of the page that shows all features, and open it."""
    import webbrowser

    from sae import artefact
    from sae.library import locate
    from sae.reports import StaleReportError, check_origins

    place = locate(name, root)
    run = artefact.read_run(place.browser, "browser", made_by="dvc repro browser")
    page = place.browser / "index.html"
    if not page.is_file():
        raise StoreError(f"{page} is missing; make it again: dvc repro browser")
    typer.echo(str(page))
    try:
        check_origins(place.browser, run, place.root, "dvc repro browser")
    except StaleReportError as error:
        typer.echo(f"(older than what lies beside it: {error})", err=True)
    if open_it and not webbrowser.open(page.as_uri()):
        typer.echo("(no browser could be opened here; open the file yourself)", err=True)


@app.command()
def sync(
    log: Annotated[Path, typer.Argument(help="A run's log, such as logs/A-1-train.jsonl.")],
    offline: Annotated[bool, typer.Option("--offline", help="Make W&B's local files anew; ask no server.")] = False,
) -> None:
    """Send what W&B's server has not yet got of a training run's log. Sends no row twice."""
    from sae.training import mirror

    done = mirror.sync(log, offline=offline)
    typer.echo(f"{log}: sent {done.n_sent:,} of {done.n_rows:,} rows, the others were there; the W&B run: {done.where}")


def _reader(name: str, root: Path, device: str) -> "Reader":
    from sae.device import to_device
    from sae.features.reading import Reader
    from sae.library import load, locate
    from sae.source.transformer import load_source
    from sae.storage.tokens import TokenStore

    place, where = locate(name, root), to_device(device)
    if not place.tokens.is_dir() or not place.transformer.is_dir():
        raise StoreError(
            f"{place.dictionary} lies alone: reading text needs its transformer in {place.transformer} and its tokens in "
            f"{place.tokens}; make them with: dvc repro"
        )
    return Reader(TokenStore.open(place.tokens), load_source(place.transformer, where), load(name, root).to(where))


def _transformer(place: "Place") -> str:
    from sae import artefact

    try:
        run = artefact.read_run(place.transformer, "transformer")
    except StoreError:
        return f"none at {place.transformer}"
    losses = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in run.facts.items() if key.endswith("loss")]
    trained_in = [f"trained in {run.facts['precision']}"] if "precision" in run.facts else []
    return ", ".join([run.id, *losses, *trained_in])


def _quality(place: "Place") -> list[tuple[str, str]]:
    from sae.library import open_table
    from sae.web.figures import headline, read_metrics

    metrics, missing = read_metrics(place.reports, place.dictionary, place.root)
    rows = [(figure.label, figure.value) for figure in headline(metrics)]
    if missing:
        rows.append(("figures", missing))
    if place.features.is_dir():
        table = open_table(place)
        dead = int((table["n_active"] == 0).sum())
        rows.append(("dead", f"{dead:,} of {len(table):,} features never fired on {table.n_tokens:,} held-out tokens"))
    if (place.browser / "index.html").is_file():
        rows.append(("page", f"{place.browser / 'index.html'}"))
    return rows


def _short(value: int | float | str) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
