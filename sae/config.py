"""Read one section of params.yaml into its frozen dataclass, strictly.

Every config class lives beside the code that owns it. A key that the class does not know is an error that names the
nearest one; a value of the wrong type is an error that names the key; `__post_init__` of the class checks the rest and
raises `ConfigError`. PyYAML reads `3e-3` as a string where DVC reads a float, so numbers in strings are converted. What old YAML
makes of `010` (8), `1:30` (90), `no` (false) and `2024-01-01` (a date) stays text: then 010 is 10 where a number belongs.
"""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from sae.errors import ConfigError
from sae.paths import given

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML as people mean it, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key '{key.value}' is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


_PLAIN = {
    "tag:yaml.org,2002:bool": re.compile("true|True|TRUE|false|False|FALSE"),
    "tag:yaml.org,2002:int": re.compile("[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)"),
}
_Loader.yaml_implicit_resolvers = {}
for _first, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        if _tag == "tag:yaml.org,2002:timestamp":
            continue
        if _tag == "tag:yaml.org,2002:float":  # without its numbers to the base of 60
            _pattern = re.compile(f"(?!.*:)(?:{_pattern.pattern})", re.VERBOSE)
        elif _tag in _PLAIN:
            _pattern = re.compile(f"(?:{_PLAIN[_tag].pattern})$")
        _Loader.yaml_implicit_resolvers.setdefault(_first, []).append((_tag, _pattern))


def _parse(text: str, what: str) -> Any:
    """Raises `ConfigError`, begun with `what`, for text that is no YAML or that no number or stack is large enough for."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"{what} nests too deeply to be read") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not readable as YAML: {error}") from None


def read_params(path: str | Path = "params.yaml") -> dict[str, Any]:
    """The whole file as a dictionary of sections. Raises `ConfigError` where it is missing or no YAML mapping."""
    path = given(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no {path} here ({Path.cwd()}); run from the project's root or give its path") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give the file of parameters, such as {path / 'params.yaml'}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from None
    loaded = _parse(text, str(path))
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not {type(loaded).__name__}")
    return loaded


def override(params: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of `params` with `section.key=value` of each change set, the value read as YAML. Raises `ConfigError` for a section
    that is not there; whether it has such a key is for the section's reader to say."""
    changed = dict(params)
    for change in changes:
        name, equals, value = change.partition("=")
        section, _, key = name.partition(".")
        if not equals or not key or not isinstance(changed.get(section), dict):
            raise ConfigError(f"'{change}' sets no parameter; write section.key=value, with a section of {', '.join(params)}")
        changed[section] = {**changed[section], key: _parse(value, f"'{change}': the value")}
    return changed


def read_section(params: dict[str, Any], section: str, cls: type[T]) -> T:
    """Section `section` of `params` as an instance of the dataclass `cls`.

    Raises `ConfigError` for a missing section, an unknown key, a value of the wrong type, or one that the class refuses.
    """
    if section not in params:
        raise ConfigError(f"params has no section '{section}'{_nearest(section, params)}")
    values = params[section]
    if not isinstance(values, dict):
        raise ConfigError(f"section '{section}' must be a mapping of parameters, not {values!r}")
    return build(cls, values, section)


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """`cls(**values)` with strict checking; `where` names the section in errors."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"'{where}.{key}' is not a parameter{_nearest(str(key), known)}")
    for key, value in values.items():
        _check_values(value, f"{where}.{key}")
    try:
        built = TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None
    except RecursionError:
        raise ConfigError(f"section '{where}' nests too deeply to be read") from None
    for field in fields(cls):  # type: ignore[arg-type]
        _check_built(values.get(field.name), getattr(built, field.name), f"{where}.{field.name}")
    for name in ("seed", "data_seed"):
        seed = getattr(built, name, None)
        if seed is not None and not 0 <= seed < 2**63:
            raise ConfigError(f"'{where}.{name}' = {seed}: must be at least 0 and below 2**63")
    return built


def _check_values(value: Any, name: str) -> None:
    """Refuse what no parameter can be, at any depth of lists and mappings."""
    for part in _scalars(value):
        if isinstance(part, int) and not -(2**63) <= part < 2**63:
            raise ConfigError(f"'{name}' has a whole number of more than 64 bits")
        if isinstance(part, str) and not part.isascii():
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"'{name}' = {part!a}: half of a surrogate pair is no text") from None


def _check_built(given: Any, built: Any, name: str) -> None:
    """Refuse a number that is none, and `true` where a number was wanted or a number where it was not."""
    if any(isinstance(part, float) and math.isnan(part) for part in _scalars(built)):
        raise ConfigError(f"'{name}' = {given!r}: not a number")
    if isinstance(given, bool) and not isinstance(built, bool) and isinstance(built, int | float):
        raise ConfigError(f"'{name}' = {given!r}: a number, not true or false")
    if isinstance(built, bool) and isinstance(given, int | float) and not isinstance(given, bool):
        raise ConfigError(f"'{name}' = {given!r}: true or false, not a number")
    if isinstance(given, dict) and isinstance(built, dict):
        for key, part in given.items():
            if key in built:
                _check_built(part, built[key], f"{name}.{key}")
    elif isinstance(given, list) and isinstance(built, list | tuple) and len(given) == len(built):
        for number, (part, made) in enumerate(zip(given, built, strict=True)):
            _check_built(part, made, f"{name}.{number}")


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _scalars(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _scalars(part)
    else:
        yield value


def _nearest(key: str, known: Any) -> str:
    match = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(sorted(known))}"


def _explain(error: ValidationError, where: str) -> str:
    parts = []
    for item in error.errors():
        name = ".".join([where, *(str(part) for part in item["loc"])])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            parts.append(f"{where}: {cause}")
        elif item["type"] == "missing":
            parts.append(f"'{name}' is missing")
        else:
            parts.append(f"'{name}' = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "; ".join(parts)
