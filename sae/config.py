"""Read one section of params.yaml into its frozen dataclass, strictly.

Every config class lives beside the code that owns it. A key that the class does not know is an error that names the
nearest one; a value of the wrong type is an error that names the key; `__post_init__` of the class checks the rest and
raises `ConfigError`. PyYAML reads `3e-3` as a string where DVC reads a float, so numbers in strings are converted.
"""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from sae.errors import ConfigError
from sae.paths import given

T = TypeVar("T")


def read_params(path: str | Path = "params.yaml") -> dict[str, Any]:
    """The whole file as a dictionary of sections. Raises `ConfigError` where it is missing or no YAML mapping."""
    path = given(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no {path} here ({Path.cwd()}); run from the project's root or give its path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from None
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
        try:
            changed[section] = {**changed[section], key: yaml.safe_load(value)}
        except yaml.YAMLError as error:
            raise ConfigError(f"'{change}': the value is not readable as YAML: {error}") from None
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
    try:
        built = TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None
    for name in ("seed", "data_seed"):
        seed = getattr(built, name, None)
        if seed is not None and not 0 <= seed < 2**63:
            raise ConfigError(f"'{where}.{name}' = {seed}: must be at least 0 and below 2**63")
    return built


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
