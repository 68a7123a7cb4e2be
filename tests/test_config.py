"""params.yaml is read strictly: a wrong key, type or value ends in one sentence that names it."""

from dataclasses import dataclass, field
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
    shares: dict[str, float] = field(default_factory=dict)

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
        ({"zzz": 3}, r"'train.zzz' is not a parameter; known: fast, flavour, l1, n_features, path, shares"),
        ({"n_features": "many"}, r"'train.n_features' = 'many': input should be a valid integer"),
        ({"n_features": 2.5}, r"'train.n_features' = 2.5"),
        ({"l1": None}, r"'train.l1' = None"),
        ({"l1": [1]}, r"'train.l1' = \[1\]"),
        ({"flavour": "bitter"}, r"'train.flavour' = 'bitter': input should be 'sweet' or 'sour'"),
        ({"fast": "perhaps"}, r"'train.fast' = 'perhaps'"),
        ({"path": 3}, r"'train.path' = 3"),
        ({"n_features": 0}, r"^train: n_features must be positive, not 0$"),
        ({"n_features": True}, r"'train.n_features' = True: a number, not true or false"),
        ({"l1": False}, r"'train.l1' = False: a number, not true or false"),
        ({"fast": 1}, r"'train.fast' = 1: true or false, not a number"),
        ({"l1": float("nan")}, r"'train.l1' = nan: not a number"),
        ({"l1": "nan"}, r"'train.l1' = 'nan': not a number"),
        ({"n_features": 2**63}, r"'train.n_features' has a whole number of more than 64 bits"),
        ({"shares": {"a": True}}, r"'train.shares.a' = True: a number"),
        ({"shares": {"a": 2.0, "b": ".nan"}}, r"'train.shares"),
        ({"path": "\ud83d"}, r"'train.path' = '\\ud83d': half of a surrogate pair"),
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
        (b"a: 1\nb: 2\na: 3\n", r"the key 'a' is there twice\n.*line 3"),
        (b"a:\n  b: 1\n  'b': 2\n", r"the key 'b' is there twice"),
        (b"a: " + b"9" * 5000, "not readable as YAML: .*4300 digits"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "nests too deeply"),
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


@pytest.mark.parametrize(
    ("written", "n_features"), [("010", 10), ("0x10", 16), ("1_000", 1000), ("+7", 7), ("0", None), ("1:30", None)]
)
def test_numbers_are_read_as_people_mean_them(tmp_path: Path, written: str, n_features: int | None) -> None:
    (tmp_path / "params.yaml").write_text(f"train:\n  n_features: {written}\n")
    params = read_params(tmp_path / "params.yaml")
    assert override({"train": {}}, [f"train.n_features={written}"]) == params
    if n_features is None:
        with pytest.raises(ConfigError, match="n_features"):
            read_section(params, "train", Example)
    else:
        assert read_section(params, "train", Example).n_features == n_features


def test_words_and_dates_stay_text(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: [no, off, y, 2024-01-01, 1:30, 1:30.5, true, null, 1.5, .inf, -3]\n")
    expected = ["no", "off", "y", "2024-01-01", "1:30", "1:30.5", True, None, 1.5, float("inf"), -3]
    assert read_params(tmp_path / "params.yaml") == {"a": expected}


def test_a_folder_is_no_file_of_parameters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder; give the file of parameters"):
        read_params(tmp_path)


def test_a_key_may_be_merged_and_said_again(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: &x {n: 1, m: 2}\nb:\n  <<: *x\n  n: 3\n")
    assert read_params(tmp_path / "params.yaml")["b"] == {"n": 3, "m": 2}
