"""What a person at a terminal meets: progress, help, completion with the Tab key, exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
import torch
from running import Run, in_this_process
from safetensors.torch import save_file

from ecqx.cli import main as cli
from ecqx.cli.options import PATH
from ecqx.coding import bitstream, inspection
from ecqx.errors import InputError
from ecqx.progress import announced, counted
from stages import command as stages_command

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(cli.cli.commands)


class Screen(io.StringIO):
    """A terminal that remembers what was on it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, stdout, stderr."""
    return in_this_process(monkeypatch, capsys)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.randn(8, 4), "b.weight": torch.randn(4, 8)}, path)
    return path


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "shown"),
    # For ASCII click has a way of its own.
    [("utf-8:strict", rb"caf\udce9"), ("latin-1:strict", rb"caf\udce9"), ("ascii:strict", b"caf")],
)
def test_names_that_the_terminal_cannot_show_are_escaped(
    tmp_path: Path, encoding: str, shown: bytes
) -> None:
    """`info` ended with a codec's traceback for a file whose name is Latin-1."""
    path = tmp_path / os.fsdecode(b"caf\xe9.ecqx")
    bitstream.save(path, {"caf\u00e9.weight": torch.zeros(2, 3), "\u2113": torch.tensor(1.5)})
    environment = os.environ | {"PYTHONIOENCODING": encoding}

    def run_ecqx(*arguments: object) -> tuple[int, bytes, bytes]:
        command = [sys.executable, "-m", "ecqx", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    for more in ([], ["--json"]):
        code, out, error = run_ecqx("info", path, *more)
        assert (code, error) == (0, b"")
        assert shown in out
    code, out, error = run_ecqx("info", tmp_path / os.fsdecode(b"none\xe9.ecqx"))
    assert (code, out) == (2, b"")
    assert error.endswith(b".ecqx: No such file or directory\n")


# -- progress --------------------------------------------------------------------------------------


def work() -> list[int]:
    with announced("loading the moon"):
        sheep = range(3)
    return list(counted(sheep, "counting", "sheep"))


def test_a_terminal_shows_what_is_done_and_is_clean_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert work() == [0, 1, 2]
    assert "loading the moon …" in screen.getvalue()
    assert "counting:" in screen.getvalue()
    # Lines that go away are overwritten, not ended.
    assert "\n" not in screen.getvalue().rstrip()
    assert screen.getvalue().endswith("\r")


def test_all_else_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert work() == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_library_is_quiet_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    screen, path = Screen(), tmp_path / "model.ecqx"
    monkeypatch.setattr(sys, "stderr", screen)
    bitstream.save(path, torch.nn.Linear(2, 2))
    bitstream.load(path)
    inspection.inspect(path)
    assert screen.getvalue() == ""
    bitstream.load(path, progress=True)
    assert "decoding" in screen.getvalue()


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        (["encode", "{checkpoint}", "-o", "{output}"], ("loading torch", "quantizing", "encoding")),
        (["decode", "{file}", "-o", "{output}.safetensors"], ("loading torch", "decoding")),
        (["info", "{file}"], ("reading",)),
    ],
)
def test_commands_show_progress_on_a_terminal_and_results_alone_on_stdout(
    run: Run,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Sequence[str],
    seen: Sequence[str],
) -> None:
    file, output = tmp_path / "file.ecqx", tmp_path / "output"
    bitstream.save(file, torch.nn.Linear(2, 2))
    words = [word.format(checkpoint=checkpoint, file=file, output=output) for word in command]
    code, quiet, error = run(*words)
    assert (code, error) == (0, "")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert run(*words) == (0, quiet, "")
    for doing in seen:
        assert doing in screen.getvalue()


# -- paths -----------------------------------------------------------------------------------------


def test_every_path_may_begin_with_the_home_folder() -> None:
    commands = cli.cli.commands.values()
    paths = [p.type for c in commands for p in c.params if isinstance(p.type, click.Path)]
    assert len(paths) > 10
    assert set(paths) == {PATH}
    # Shells leave ~ alone in --results=~/x.
    assert PATH.convert("~/x", None, None) == Path.home() / "x"


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_every_option_a_word(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"\n    ecqx {name}" in out or f'"$(ecqx {name}' in out
    command = cli.cli.commands[name]
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help  # type: ignore[attr-defined]


def test_the_first_help_teaches(run: Run) -> None:
    _, out, _ = run("--help")
    for name in COMMANDS:
        assert f"\n  {name} " in out
    assert "ecqx run --dataset digits" in out
    for code in (0, 1, 2, cli.INTERRUPTED):
        assert f"\n    {code} " in out


def test_the_version(run: Run) -> None:
    import ecqx

    assert run("--version")[:2] == (0, f"ecqx, version {ecqx.__version__}\n")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_stages_say_what_they_do(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages import pipeline

    monkeypatch.setattr(sys, "argv", ["pipeline", word])
    assert stages_command.run_command_line(pipeline.main) == 0
    out, error = capsys.readouterr()
    assert "[SUITE]" in out
    assert "path of a suite's pipeline" in out
    assert "Exit codes: 0 done; 1" in out
    assert error == ""


# -- exit codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("lam must be\n finite"), 2, "ecqx: lam must be finite\n"),
        (OSError(28, "No space left on device"), 2, "ecqx: No space left on device\n"),
        (OSError(13, "Permission denied", "a.ecqx"), 2, "ecqx: a.ecqx: Permission denied\n"),
        (KeyboardInterrupt(), 130, "\necqx: interrupted\n"),
    ],
)
def test_exit_codes(
    run: Run,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(inspection, "inspect", fail)
    ended, out, error = run("encode", checkpoint, "-o", tmp_path / "a.ecqx")
    assert (ended, out) == (code, "")
    assert error.strip() == line.strip()


@pytest.mark.parametrize("kind", [AssertionError, ValueError])
def test_an_error_of_ecqx_itself_has_a_traceback(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("impossible")

    monkeypatch.setattr(bitstream, "save", fail)
    monkeypatch.setattr(
        sys, "argv", ["ecqx", "encode", str(checkpoint), "-o", str(tmp_path / "a.ecqx")]
    )
    # Python ends a program with code 1 after this.
    with pytest.raises(kind, match="impossible"):
        cli.main()


# -- completion ------------------------------------------------------------------------------------


@pytest.fixture
def completed(tmp_path: Path) -> Callable[[str], list[str]]:
    """What bash offers for a line, with the script of `ecqx completion bash` in place."""
    program = tmp_path / "bin" / "ecqx"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ecqx "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    script = """
        eval "$(ecqx completion bash)"
        complete -p ecqx >&2
        COMP_WORDS=($1) COMP_CWORD=$(($(echo $1 | wc -w) - 1))
        compopt() { :; }
        _ecqx_completion ecqx
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", line],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "_ecqx_completion ecqx" in done.stderr
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ecqx in", ["info"]),
        ("ecqx encode --bitw", ["--bitwidth"]),
        ("ecqx run --dataset cif", ["cifar10", "cifar100"]),
        ("ecqx run --lrp_o", ["--lrp_output"]),
    ],
)
def test_bash_completes(
    completed: Callable[[str], list[str]], line: str, offered: list[str]
) -> None:
    assert completed(line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(run: Run, shell: str) -> None:
    code, out, error = run("completion", shell)
    assert (code, error) == (0, "")
    assert f"_ECQX_COMPLETE={shell}_complete" in out


def test_completion_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from ecqx.cli import main as cli\n"
        "try: cli.main()\n"
        "finally: assert not {'torch', 'numpy', 'nncodec'} & set(sys.modules)"
    )
    line = {"COMP_WORDS": "ecqx run --lrp_o", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **line, "_ECQX_COMPLETE": "bash_complete", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,--lrp_output\n"
