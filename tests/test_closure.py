"""Import closures: the walker on made packages, and what is imported when code really runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from ecqx.errors import InputError
from stages.closure import Closure, Code
from stages.fingerprint import FORMS, REGISTRY, STAGES, jobs
from stages.syntax import read

REPOSITORY = Path(__file__).resolve().parents[1]
LAZY = """
from ecqx.lazy import lazy_names
_HOMES = {"a": "ecqx.inner.a", "model": "ecqx.inner.b", "other": "ecqx.inner.c"}
__getattr__ = lazy_names(__name__, _HOMES)
"""


def made(folder: Path, **sources: str) -> Path:
    """A repository of these modules; ``__`` in a name stands for a dot."""
    (folder / "constraints.txt").write_text(
        "numba==1.0\nllvmlite==2.0\nPyYAML==3.0+cpu  # with a remark\nscikit-learn==4\n"
        'zennit==5 ; python_version < "3.12"\nzennit==6 ; python_version >= "3.12"\n'
    )
    for name, source in {"ecqx": "", "ecqx__lazy": "", **sources}.items():
        path = folder.joinpath(*name.split("__"))
        inner = any(other.startswith(f"{name}__") for other in sources) or name == "ecqx"
        path = path / "__init__.py" if inner else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def modules(folder: Path, *roots: str) -> set[str]:
    return {name.removeprefix("ecqx.") for name in Code(folder).closure(roots).modules} - {"ecqx"}


# -- the walker ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("import ecqx.a as a", {"a"}),
        ("from ecqx.a import name", {"a"}),
        ("from ecqx.a import *", {"a"}),
        ("from ecqx import a", {"a"}),
        ("from ecqx.inner import b", {"inner", "inner.b"}),
        ("from ecqx.inner.b import name", {"inner", "inner.b"}),
        ("def f():\n    from ecqx import a", {"a"}),
        ("try:\n    from ecqx import a\nexcept ImportError:\n    pass", {"a"}),
        ("from importlib import import_module\nimport_module('ecqx.a')", {"a"}),
        ("import importlib\nimportlib.import_module('ecqx.' + name)", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ecqx import a", set()),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    from ecqx import a\n"
            "else:\n    from ecqx.inner import b",
            {"inner", "inner.b"},
        ),
        ("'import ecqx.a'", set()),
    ],
)
def test_imports_are_followed(tmp_path: Path, source: str, reached: set[str]) -> None:
    folder = made(tmp_path, ecqx__root=source, ecqx__a="", ecqx__inner="", ecqx__inner__b="")
    assert modules(folder, "ecqx.root") == {"root", *reached}


def test_circles_end_and_packages_count(tmp_path: Path) -> None:
    folder = made(
        tmp_path,
        ecqx__inner="from ecqx.inner.deep import c",
        ecqx__inner__deep="",
        ecqx__inner__deep__c="from ecqx import a\nfrom ecqx.inner.b import name",
        ecqx__inner__b="",
        ecqx__a="from ecqx.inner.deep import c",
    )
    everything = {"inner", "inner.deep", "inner.deep.c", "inner.b", "a"}
    for root in everything:
        assert modules(folder, f"ecqx.{root}") == everything


def test_a_public_name_of_a_package_changes_nothing(tmp_path: Path) -> None:
    """The program itself imports from modules; a package's lazy names are for users."""
    sources = {"ecqx__user": "from ecqx.inner import b", "ecqx__inner__b": ""}
    before = Code(made(tmp_path, ecqx__inner=LAZY, **sources)).closure(["ecqx.user"]).digest
    named = LAZY.replace('"other"', '"another": "ecqx.inner.c", "other"')
    after = Code(made(tmp_path, ecqx__inner=named, **sources)).closure(["ecqx.user"]).digest
    assert after == before


def test_pinned_versions_of_direct_imports(tmp_path: Path) -> None:
    source = "import os, yaml.nodes\nfrom numba import njit\ndef f():\n    import sklearn, zennit"
    found = Code(made(tmp_path, stages__root=source, stages="")).closure(["stages.root"])
    assert found.packages == {
        "llvmlite": "2.0",
        "numba": "1.0",
        "pyyaml": "3.0",
        "scikit-learn": "4",
        "zennit": '5 if python_version < "3.12", 6 if python_version >= "3.12"',
    }


def test_templates_beside_a_module_and_named_files_count(tmp_path: Path) -> None:
    folder = made(tmp_path, ecqx__inner="", ecqx__inner__b="", ecqx__a="")
    template = folder / "ecqx/inner/templates/deep/page.html"
    template.parent.mkdir(parents=True)
    template.write_text("1")
    (folder / "starter").write_text("1")

    def digests() -> list[str]:
        code = Code(folder)
        return [
            code.closure(["ecqx.inner.b"]).digest,
            code.closure(["ecqx.a"]).digest,
            code.closure(["ecqx.a"], ["starter"]).digest,
        ]

    first = digests()
    template.write_text("2")
    second = digests()
    (folder / "starter").write_text("2")
    third = digests()
    assert [a != b for a, b in zip(first, second, strict=True)] == [True, False, False]
    assert [a != b for a, b in zip(second, third, strict=True)] == [False, False, True]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from ecqx import nowhere", "ecqx.root: ecqx is a package: import from its modules"),
        ("from ecqx.nowhere import a", "ecqx.root: imports ecqx.nowhere, which is no module"),
        ("import nowhere", "constraints.txt: has no version of nowhere, which ecqx.root imports"),
        # What these bind could be used for any lazy name of a package.
        ("from ecqx.inner import name", "ecqx.root: ecqx.inner is a package: import from its mod"),
        ("from ecqx.inner import *", "ecqx.root: ecqx.inner is a package: import from its modules"),
        ("from ecqx import inner", "ecqx.root: ecqx.inner is a package: import from its modules"),
        ("import ecqx.inner as i", "ecqx.root: ecqx.inner is a package: import from its modules"),
        ("import ecqx", "ecqx.root: write `from … import ecqx`"),
        ("import ecqx.a", "ecqx.root: write `from ecqx import a`"),
        ("from . import a", "ecqx.root: write relative imports in full"),
        ("from .a import name", "ecqx.root: write relative imports in full"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, source: str, message: str) -> None:
    folder = made(tmp_path, ecqx__root=source, ecqx__a="", ecqx__inner="", ecqx__inner__b="")
    with pytest.raises(InputError) as caught:
        Code(folder).closure(["ecqx.root"])
    assert str(caught.value).startswith(message)


# -- what the text of a module means ---------------------------------------------------------------

TEXT = '''
"""A docstring."""
import math
from dataclasses import dataclass

ALL: dict[str, int] = {"one": 1}

@dataclass
class Settings:
    """A docstring."""
    width: int
    height: int = 2

def area(settings: Settings, scale: float = 1.0) -> float:
    """A docstring."""
    count: int
    if scale < 0:
        raise ValueError(f"{scale} is below " "zero")
    return settings.width * scale  # a comment
'''


def meaning(text: str) -> str:
    return read(text.encode(), "ecqx.made").digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A docstring.", "Another one."),
        ('    """A docstring."""\n', ""),
        ("  # a comment", ""),
        ("import math\n", "import math\n\n\n"),
        ("settings.width * scale", "(settings.width\n            * scale)"),
        ("settings: Settings, scale: float = 1.0) -> float", "settings, scale=1.0)"),
        ("ALL: dict[str, int]", "ALL"),
        ('f"{scale} is below " "zero"', '"too small"'),
        (
            "def area",
            "METHODS = {'a': 'ecqx.a', 'b': 'ecqx.b:Name'}\n__all__ = ['area']\n\ndef area",
        ),
    ],
)
def test_words_for_people_do_not_count(old: str, new: str) -> None:
    assert old in TEXT
    assert meaning(TEXT.replace(old, new)) == meaning(TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale: float = 1.0", "scale: float = 1"),
        ("settings.width * scale", "settings.height * scale"),
        ("scale < 0", "scale < False"),
        ("raise ValueError", "raise TypeError"),
        ('f"{scale} is below " "zero"', '"", 1'),
        ('{"one": 1}', '{"one": 2}'),
        ('{"one": 1}', '{"one": "ecqx.a", "two": 1}'),
        ("    height: int = 2\n", ""),
        ("    width: int\n", ""),
        # Dataclasses and pydantic read the annotations of a class.
        ("width: int", "width: float"),
        ("width: int", "width: ClassVar[int]"),
        ("count: int", "number: int"),
        ("def area", "TABLE = {'a': 'ecqx.a'}\n\ndef area"),
        ("def area", "METHODS = {'a': 'ecqx.a', 'b': 'other.b'}\n\ndef area"),
        ("import math", "import cmath as math"),
        ("@dataclass\n", "@dataclass(frozen=True)\n"),
        ("def area", "@njit\ndef area"),
    ],
)
def test_what_a_program_does_counts(old: str, new: str) -> None:
    assert old in TEXT
    assert meaning(TEXT.replace(old, new)) != meaning(TEXT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{'a': x, **y}", "{**x, 'a': y}"),
        ("def f(*, a, b=1): return a", "def f(*, a=1, b): return a"),
        ("x[1:]", "x[:1]"),
        ("match x:\n    case None: y()", "match x:\n    case True: y()"),
    ],
)
def test_places_count(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


def test_annotations_that_a_decorator_may_read_count() -> None:
    text = "@validate_call\ndef f(x: int) -> int:\n    return x"
    assert meaning(text) != meaning(text.replace("x: int", "x: float"))


OTHER = "3.12" if sys.version_info < (3, 12) else "3.11"
CODE = """
import json, sys
from pathlib import Path
from stages.syntax import read
files = sorted(path for folder in ("ecqx", "stages") for path in Path(folder).rglob("*.py"))
json.dump({str(path): read(path.read_bytes(), str(path)).digest for path in files}, sys.stdout)
"""


def test_another_python_gives_the_same_digests() -> None:
    command = [f"python{OTHER}", "-c", CODE]
    try:
        subprocess.run([command[0], "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no Python {OTHER}")
    here, other = (
        subprocess.run(c, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
        for c in ([sys.executable, *command[1:]], command)
    )
    assert len(json.loads(here)) > 100
    assert here == other


# -- real imports ----------------------------------------------------------------------------------

# Each code in a process of its own, forked where the packages that take seconds are imported.
FORKED = """
import json, os, sys
import joblib, numba, pydantic, sklearn.datasets, torch, torchvision, zennit
torch.set_num_threads(1)
for folder, code in json.load(sys.stdin):
    reader, writer = os.pipe()
    if not os.fork():
        os.chdir(folder)
        exec(code, {"__name__": "made"})
        ours = [name for name in sys.modules if name.partition(".")[0] in ("ecqx", "stages")]
        os.write(writer, json.dumps(ours).encode())
        os._exit(0)
    os.close(writer)
    print("IMPORTED", os.read(reader, 1 << 16).decode(), flush=True)
    os.wait()
"""


def imported(programs: Sequence[tuple[Path, str]]) -> list[set[str]]:
    """Modules of the project that each program, run in a folder, has imported when it ends."""
    result = subprocess.run(
        [sys.executable, "-c", FORKED],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **SETTINGS_OF_STAGES},
        input=json.dumps([(str(folder), code) for folder, code in programs]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("IMPORTED")]
    names = [line.partition(" ")[2] for line in lines]
    assert len(names) == len(programs)
    assert all(names), f"a program failed: {programs[names.index('')]}"
    return [set(json.loads(found)) for found in names]


SETTINGS_OF_STAGES = {"ECQX_PROCESSES": "1", "ECQX_NO_PROGRESS": "1"}
CODING = """
import tempfile, torch
from pathlib import Path
from ecqx.coding.bitstream import load, save
with tempfile.TemporaryDirectory() as folder:
    save(Path(folder) / "x.ecqx", torch.nn.Linear(3, 2))
    load(Path(folder) / "x.ecqx")
"""


TRAIN = """
import tempfile, torch
from pathlib import Path
from ecqx.data.tensors import Split, TensorData
from ecqx.experiment.task import Task
from ecqx.experiment.train import Training
from ecqx.training.settings import FitSettings
method, settings = {method!r}, {settings!r}
if method is not None:
    from importlib import import_module
    module, _, name = method.partition(":")
    method = getattr(import_module(module), name).build(settings)
split = Split(torch.rand(8, 64), torch.arange(8))
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "data.safetensors"
    TensorData(split, split, split, tuple("abcdefgh"), "made").save(data)
    task = Task(dict(name="mlp_gsc", in_features=64, num_classes=8), data)
    fit = FitSettings(epochs=1, lr=1e-3, batch_size=4)
    Training(task, fit, 0, method, None, "cpu", "key").run(Path(folder), Path(folder, "epoch.pt"))
"""
# What methods have to be given.
SETTINGS: dict[str, dict[str, object]] = {
    **{name: {"bits": 4, "lam": 0.1} for name in ("ECQ", "ECQx")},
    **{name: {"lam": 0.1} for name in ("EC2T", "EC2Tx", "FantastIC4", "FantastIC4x")},
    **{name: {"qp": -20} for name in ("NNCodec uniform", "NNCodec dependent")},
    "pruning": {"bits": 4, "sparsity": 0.5},
    "LSQ": {"bits": 4},
    "torchao": {"bits": 4, "group": 32},
}


def closures_of_programs() -> dict[str, Closure]:
    """What some programs may import."""
    code = Code(REPOSITORY)
    methods = code.table(REGISTRY, "METHODS")
    trainings = jobs("quantize", methods, code)["methods"]
    programs = {
        CODING: code.closure(["ecqx.coding.bitstream"]),
        "import ecqx.report.build": code.closure(["ecqx.report.build"]),
        "from ecqx import ECQx": code.closure(["ecqx.lazy", "ecqx.quantizers.ecqx"]),
    }
    # One training of those that have the same closure.
    for name in {counted.modules: name for name, counted in trainings.items()}.values():
        program = TRAIN.format(method=methods.get(name), settings=SETTINGS.get(name, {}))
        programs[program] = trainings[name]
    return programs


def write_small_suite(folder: Path) -> None:
    """Suite smoke with one network and two runs, and links to the code."""
    params = yaml.safe_load((REPOSITORY / "suites/smoke/params.yaml").read_text())
    params |= {"root": ".", "params": "params.yaml"}
    tasks = params["quantize"]["tasks"]
    for section in (params["tasks"], params["pretrain"], tasks, params["report"]["titles"]):
        del section["resnet20"]
    tasks["mlp"]["sweeps"] = [
        {"sweep": "grid", "method": ["ECQ", "ECQx"], "bits": [4], "lam": [0.3]}
    ]
    params["pretrain"]["mlp"]["epochs"] = 1
    params["report"]["comparison"] = None
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("ecqx", "stages", "constraints.txt", "dvc.yaml"):
        (folder / name).symlink_to(REPOSITORY / name)


RUN_STAGE = "import stages.{} as stage\nassert stage.main(['smoke']) == 0"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What each program and stage imported; one process for all, as it imports torch."""
    folder = tmp_path_factory.mktemp("suite")
    write_small_suite(folder)
    codes = [RUN_STAGE.format(stage) for stage in ("fingerprint", *STAGES)]
    programs = [(REPOSITORY, code) for code in closures_of_programs()]
    programs += [(folder, code) for code in codes]
    found = imported(programs)
    return {code: modules for (_, code), modules in zip(programs, found, strict=True)}


def test_programs_import_what_their_closures_say(loaded: dict[str, set[str]]) -> None:
    for code, counted in closures_of_programs().items():
        beyond = loaded[code] - set(counted.modules)
        assert not beyond, f"{beyond} imported by: {code}"


# The fingerprint stage itself checks settings with the code of all methods.
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_imports_what_its_fingerprint_counts(
    stage: str, loaded: dict[str, set[str]]
) -> None:
    code = Code(REPOSITORY)
    counted = [code.closure([f"stages.{stage}"])]
    for closures in jobs(stage, code.table(REGISTRY, "METHODS"), code).values():
        counted += closures.values()
    assert loaded[RUN_STAGE.format(stage)] <= {name for found in counted for name in found.modules}


def test_tables_name_modules_that_exist() -> None:
    code = Code(REPOSITORY)
    for module, name in ((REGISTRY, "METHODS"), (REGISTRY, "NEVER_RUN"), (FORMS, "FORMS")):
        for place in code.table(module, name).values():
            assert code.closure([place.partition(":")[0]]).modules
