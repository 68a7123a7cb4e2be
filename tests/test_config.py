"""params.yaml is read strictly: a wrong key, type or value ends in one sentence that names it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from sae.config import build, override, read_params, read_section
from sae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Example:
    n_features: int = 4
    l1: float = 0.5
    flavour: Literal["sweet", "sour"] = "sweet"
    path: str | None = None
    fast: bool = False

    def __post_init__(self) -> None:
        if self.n_features < 1:
            raise ConfigError(f"n_features must be positive, not {self.n_features}")


@dataclass(frozen=True, kw_only=True)
class Needed:
    n_rows: int


def test_a_section_becomes_its_dataclass() -> None:
    params = {"train": {"n_features": 7, "path": "x"}, "other": {"anything": 1}}
    assert read_section(params, "train", Example) == Example(n_features=7, path="x")


def test_an_empty_section_is_all_defaults() -> None:
    assert read_section({"train": {}}, "train", Example) == Example()


def test_a_section_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a mapping of parameters, not None"):
        read_section({"train": None}, "train", Example)


def test_numbers_that_yaml_reads_as_strings_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train:\n  l1: 3e-3\n  n_features: 16\n")
    params = read_params(tmp_path / "params.yaml")
    assert params["train"]["l1"] == "3e-3"  # PyYAML's reading, which DVC does not share
    assert read_section(params, "train", Example).l1 == 0.003


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_feature": 3}, r"'train.n_feature' is not a parameter; did you mean 'n_features'\?"),
        ({"zzz": 3}, r"'train.zzz' is not a parameter; known: fast, flavour, l1, n_features, path"),
        ({"n_features": "many"}, r"'train.n_features' = 'many': input should be a valid integer"),
        ({"n_features": 2.5}, r"'train.n_features' = 2.5"),
        ({"l1": None}, r"'train.l1' = None"),
        ({"l1": [1]}, r"'train.l1' = \[1\]"),
        ({"flavour": "bitter"}, r"'train.flavour' = 'bitter': input should be 'sweet' or 'sour'"),
        ({"fast": "perhaps"}, r"'train.fast' = 'perhaps'"),
        ({"path": 3}, r"'train.path' = 3"),
        ({"n_features": 0}, r"^train: n_features must be positive, not 0$"),
        ({"n_features": "x", "l1": "y"}, r"'train.n_features' = 'x'.*; 'train.l1' = 'y'"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Example, values, "train")


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'harvest.n_rows' is missing"):
        build(Needed, {}, "harvest")


def test_a_missing_or_misspelt_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no section 'train'; did you mean 'trian'\?"):
        read_section({"trian": {}, "other": {}}, "train", Example)
    with pytest.raises(ConfigError, match=r"'train' must be a mapping of parameters, not \[1\]"):
        read_section({"train": [1]}, "train", Example)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not readable as YAML"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"- 1\n", "not list"),
        (b"", "not NoneType"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_params(tmp_path / "params.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run from the project's root"):
        read_params(tmp_path / "params.yaml")


def test_an_error_of_params_is_a_value_error_with_its_own_exit_code() -> None:
    assert issubclass(ConfigError, ValueError)
    assert ConfigError.exit_code == 78


def test_parameters_set_on_the_command_line_are_as_if_written_in_the_file() -> None:
    params = {"train": {"n_features": 7, "l1": 1.0}, "other": {"x": 1}}
    changed = override(params, ["train.l1=3e-3", "other.x=[[a/1, b/1]]", "train.path=x=y", "train.l1=2"])
    assert changed == {"train": {"n_features": 7, "l1": 2, "path": "x=y"}, "other": {"x": [["a/1", "b/1"]]}}
    assert params == {"train": {"n_features": 7, "l1": 1.0}, "other": {"x": 1}}
    with pytest.raises(ConfigError, match=r"'train\.widht' is not a parameter"):
        read_section(override(params, ["train.widht=2"]), "train", Example)


@pytest.mark.parametrize("change", ["train", "train=3", "train.l1", "trian.l1=3", "=3", "train.=3"])
def test_what_sets_no_parameter_is_refused(change: str) -> None:
    with pytest.raises(ConfigError, match=r"write section\.key=value, with a section of train"):
        override({"train": {"l1": 1.0}}, [change])
    with pytest.raises(ConfigError, match="not readable as YAML"):
        override({"train": {"l1": 1.0}}, ["train.l1=[1"])
