"""The suites: each is one folder with its settings, its pipeline and its lock.

The default suite lies in the repository's root, every other one in ``suites/NAME``.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from ecqx.errors import InputError

# Settings of a suite, its pipeline, and what the pipeline last ran with.
PARAMS, PIPELINE, LOCK = "params.yaml", "dvc.yaml", "dvc.lock"
FOLDER = Path("suites")


def default() -> str:
    """Name of the suite in the repository's root."""
    name = read_params(Path(PARAMS)).get("suite")
    if not isinstance(name, str):
        raise InputError(f"{PARAMS}: suite must name the suite of these settings")
    return name


def names() -> list[str]:
    """All suites, the default one first."""
    return [default(), *sorted(path.parent.name for path in FOLDER.glob(f"*/{PARAMS}"))]


def published() -> list[str]:
    """The suites whose committed results have to be those of the code."""
    return [n for n in names() if read_params(params_path(n)).get("published") is True]


def check_known(name: str) -> None:
    """Raise ``InputError`` if there is no suite of this name."""
    if name not in (known := names()):
        raise InputError(f"suite must be one of {', '.join(known)}, not {name!r}")


def folder(name: str) -> Path:
    """Folder of a suite, relative to the repository's root; ``InputError`` if there is none."""
    check_known(name)
    return Path() if name == default() else FOLDER / name


def params_path(name: str) -> Path:
    """Settings of a suite."""
    return folder(name) / PARAMS


def pipeline_path(name: str) -> Path:
    """Pipeline of a suite; all are copies of the one in the root."""
    return folder(name) / PIPELINE


def read_params(path: Path) -> dict[str, object]:
    """The content of a settings file, unchecked; ``InputError`` if it holds no mapping."""
    try:
        # The loader in C is ten times as fast.
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold settings by name")
    return content
