"""`mergekit-breadcrumbs inspect`: its arguments, what it prints, and how it ends."""

import importlib.util
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from mergekit.options import MergeOptions
from mergekit.scripts.run_yaml import main as mergekit_yaml
from support.checked_configs import MODELS, make_models
from support.repository import ROOT, run, run_script, script

import mergekit_breadcrumbs.check.run
from mergekit_breadcrumbs.check.run import check_text
from mergekit_breadcrumbs.check.text import problem_lines
from mergekit_breadcrumbs.cli import inspect, main

TWO_ERRORS = MODELS.replace("gamma", "gama").replace("bfloat16", "bf16")
WARNING = MODELS.replace("gamma: 0.01", "gamma: 0.2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and three configs beside them."""
    root = make_models(tmp_path_factory.mktemp("models"))
    for name, text in (("good", MODELS), ("bad", TWO_ERRORS), ("odd", WARNING)):
        (root / f"{name}.yml").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["inspect", *arguments])


ENDS = {
    "clean": (
        "good.yml",
        0,
        ["good.yml: no problems (3 models, 21 tensors, 2 layers checked)"],
    ),
    "errors": (
        "bad.yml",
        1,
        [
            "bad.yml:12: error BC203: parameters.gama: unknown parameter; did you mean"
            " gamma?",
            "bad.yml:13: error BC110: dtype: must be one of bfloat16, float16, float32,"
            " float64; got 'bf16'; did you mean bfloat16?",
            "bad.yml: 2 errors (3 models, 2 layers checked)",
        ],
    ),
    "a warning": (
        "odd.yml",
        0,
        [
            "odd.yml:11: warning BC213: parameters.density: density + gamma is 1.1,"
            " more than 1, for model.embed_tokens.weight and 20 more: density wins, and"
            " fewer of the largest elements are dropped",
            "odd.yml: 1 warning (3 models, 21 tensors, 2 layers checked)",
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_console_script(end: str) -> None:
    """The installed command prints plain lines, and exits with 1 after an error."""
    config, status, lines = ENDS[end]
    done = run_script("mergekit-breadcrumbs", "inspect", "--check", config)
    assert done.stdout.splitlines() == lines
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_readme(models: Path) -> None:
    """The README shows what its config gets."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Check a config before merging\n")[1].split("\n## ")[0]
    config, printed = re.findall(r"```(?:yaml|text)\n(.*?)```", section, re.DOTALL)
    (models / "config.yml").write_text(config, encoding="utf-8")
    result = _run("--check", "config.yml")
    assert result.stdout == printed
    assert result.exit_code == 1


def test_in_colour() -> None:
    """On a terminal the severity is coloured, and nothing else is."""
    result = CliRunner().invoke(main, ["inspect", "--check", "bad.yml"], color=True)
    assert "\x1b[31m\x1b[1merror\x1b[0m BC203: parameters.gama" in result.stdout
    assert result.stdout.count("\x1b[") == 2 * 3


def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR counts on a terminal, too; see no-color.org."""
    monkeypatch.setenv("NO_COLOR", "1")
    result = CliRunner().invoke(main, ["inspect", "--check", "bad.yml"], color=True)
    assert "error BC203: parameters.gama" in result.stdout
    assert "\x1b" not in result.stdout


def test_problems_do_not_mix_with_figures() -> None:
    """Without --check, standard output is for the figures."""
    result = _run("bad.yml", "--json", "-")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "bad.yml: 2 errors" in result.stderr


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a stand-in for `run_inspection` is called with."""
    calls: list[Any] = []
    module = ModuleType("run")
    module.__dict__["run_inspection"] = lambda *args, **kw: calls.append((args, kw))
    monkeypatch.setitem(sys.modules, "mergekit_breadcrumbs.measure.run", module)
    return calls


def test_goes_on_after_the_checks(called: list[Any]) -> None:
    """Without errors the config, as it was read, goes on to be inspected."""
    arguments = ("--json", "-", "--plot", "p.png", "--layers", "0,-1,0")
    result = _run("odd.yml", *arguments, "--trust-remote-code", "-j", "1")
    assert result.exit_code == 0, result.output
    [((config, options), rest)] = called
    assert [str(entry.model) for entry in config.models] == ["./math", "./code"]
    assert options.trust_remote_code
    assert rest == {"layers": (0, -1), "json_file": "-", "plot_file": "p.png"}
    assert result.stdout == ""
    assert "odd.yml:11: warning BC213: parameters.density" in result.stderr


def test_stops_at_check_or_error(called: list[Any]) -> None:
    """Neither --check nor a config with an error goes on."""
    assert _run("good.yml", "--check").exit_code == 0
    assert _run("bad.yml").exit_code == 1
    assert called == []


REFUSED = {
    "no such config": (["gone.yml"], "Path 'gone.yml' does not exist"),
    "a directory": (["math"], "math is a directory, and no breadcrumb file"),
    "layers": (["--layers", "0;1"], "must be layer numbers separated by commas"),
    "no layers": (["--layers", ""], "as 0,5,-1; got ''"),
    "json nowhere": (["--json", "no/a.json"], "there is no directory 'no'"),
    "json a directory": (["--json", "math"], "'math' is a directory"),
    "plot nowhere": (["--plot", "no/a.png"], "there is no directory 'no'"),
    "plot of another kind": (["--plot", "a.pdf"], "must end in .png; got 'a.pdf'"),
    "plot to standard output": (["--plot", "-"], "must end in .png; got '-'"),
    "an option of merging only": (["--out-shard-size", "5B"], "No such option"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_before_any_work(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong arguments are a usage error, and nothing has been looked at by then."""
    monkeypatch.delattr(mergekit_breadcrumbs.check.run, "check_text")
    arguments, message = REFUSED[reason]
    config = [] if "config" in reason or reason == "a directory" else ["good.yml"]
    result = _run(*config, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the message says how to get it."""
    monkeypatch.delattr(mergekit_breadcrumbs.check.run, "check_text")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest),
    )
    result = _run("good.yml", "--plot", "a.png")
    assert result.exit_code == 2
    assert "pip install 'mergekit-breadcrumbs[plot]'" in result.stderr


def test_unwritable_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that takes no files is refused, too."""
    monkeypatch.delattr(mergekit_breadcrumbs.check.run, "check_text")
    monkeypatch.setattr("os.access", lambda *_: False)
    result = _run("good.yml", "--json", "a.json")
    assert result.exit_code == 2
    assert "'a.json' cannot be written" in result.stderr


@pytest.mark.parametrize("layer", ["2", "-3", "0,7"])
def test_no_such_layer(layer: str, called: list[Any]) -> None:
    """A layer that the merged model has not is refused after the checks."""
    result = _run("good.yml", "--layers", layer)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    got = layer.split(",")[-1]
    assert (
        "--layers must be in [-2, 1], for the merged model has 2 layers; got " + got
    ) in said
    assert called == []


NO_CONFIG = {
    "not UTF-8": (
        b"a: 1\n\xff",
        1,
        "other:2: error BC101: not UTF-8 text: the byte 0xff",
    ),
    "empty": (b"", 1, "other: error BC101: the file is empty\n"),
    "not YAML": (b"a: [", 1, "other:1: error BC101: not valid YAML: "),
    "no text": (
        b"\x00",
        1,
        "other:1: error BC101: not valid YAML: the character U+0000",
    ),
    "UTF-16": (b"\xff\xfea\0", 1, "other:1: error BC101: not UTF-8 text, but UTF-16"),
    "a word": (
        b"a",
        1,
        "other: error BC106: must be a mapping (name: value); got 'a'\n",
    ),
}


@pytest.mark.parametrize("reason", NO_CONFIG)
def test_files_that_are_no_config(reason: str, models: Path) -> None:
    """A file of another kind ends with a message that says what is wrong with it."""
    content, status, message = NO_CONFIG[reason]
    (models / "other").write_bytes(content)
    result = _run("--check", "other")
    assert result.exit_code == status
    assert isinstance(result.exception, SystemExit)
    assert message in result.output


def test_options_are_mergekits() -> None:
    """Each option has the names, kind and default that mergekit-yaml gives it."""
    theirs = {param.name: param for param in mergekit_yaml.params}
    own = {"config", "check", "output_format", "json_file", "plot_file", "layers"}
    own |= {"out", "help"}
    ours = [param for param in inspect.params if param.name not in own]
    assert len(ours) == 14
    for option in ours:
        their = theirs[option.name]
        assert isinstance(option, click.Option)
        assert isinstance(their, click.Option)
        for key in ("opts", "secondary_opts", "is_flag", "count", "default"):
            assert getattr(option, key) == getattr(their, key), (option.name, key)
        assert isinstance(option.type, type(their.type)), option.name


IMPORTED = """
import sys
from mergekit_breadcrumbs.cli import main
main(sys.argv[1:], standalone_mode=False)
print("imported:", *sorted({"mergekit", "torch", "pydantic"} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "imported:"),
        (["inspect", "--help"], "imported:"),
        (["inspect", "--check", "good.yml"], "imported: mergekit pydantic torch"),
    ],
    ids=" ".join,
)
def test_help_is_quick(arguments: list[str], expected: str) -> None:
    """Help imports nothing that takes seconds; the last row shows that this is seen."""
    done = run(sys.executable, "-c", IMPORTED, *arguments)
    assert done.stdout.splitlines()[-1] == expected


def test_as_json() -> None:
    """--format json has each problem of the text, and the counts."""
    result = _run("--check", "--format", "json", "bad.yml")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["valid"] is False
    assert (found["error_count"], found["warning_count"]) == (2, 0)
    assert found["diagnostics"][0] == {
        "code": "BC203",
        "severity": "error",
        "file": "bad.yml",
        "line": 12,
        "place": "parameters.gama",
        "message": "unknown parameter; did you mean gamma?",
    }
    clean = json.loads(_run("--check", "--format", "json", "good.yml").stdout)
    assert clean == {
        "valid": True,
        "error_count": 0,
        "warning_count": 0,
        "diagnostics": [],
    }


EXCERPTS = {
    "a key": (
        TWO_ERRORS,
        ["   12 |   gama: 0.01", "      |   ^^^^"],
    ),
    "tabs and control characters": (
        'merge_method: "br\\e[31m" # \x85',
        ['    1 | merge_method: "br\\e[31m" #', "      | ^^^^^^^^^^^^"],
    ),
    "a long line": (
        "{dtype: float32, x: [" + "a, " * 99 + "], yy: 1}",
        [
            "    1 | ..." + "a, " * 10 + "], yy: 1}",
            "      | " + " " * 36 + "^^",
        ],
    ),
    "wide characters": ("模型: 1", ["    1 | 模型: 1", "      | ^^^^"]),
    "what is not YAML": ("a: [\n\tb", ["    2 | \\tb", "      | ^^"]),
}


@pytest.mark.parametrize("reason", EXCERPTS)
def test_excerpts(reason: str) -> None:
    """On a terminal the line of the file stands below, with carets, in 80 columns."""
    text, expected = EXCERPTS[reason]
    checked = check_text(text, MergeOptions())
    lines = list(problem_lines(checked, Path("c.yml"), excerpts=True))
    plain = [click.unstyle(line) for line in lines]
    assert "\n".join(expected) in "\n".join(plain)
    excerpts = [line for line in plain if re.match(r" +\d* \| ", line)]
    assert len(excerpts) >= 2
    assert all(len(line) <= 80 for line in excerpts)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudoterminals")
def test_on_a_terminal() -> None:
    """The installed command shows excerpts on a terminal, and only there."""
    reader, writer = pty.openpty()
    command = [script("mergekit-breadcrumbs"), "inspect", "--check", "bad.yml"]
    subprocess.run(command, stdout=writer, stdin=subprocess.DEVNULL, check=False)
    os.close(writer)
    shown = os.read(reader, 10_000).decode()
    assert "^^^^" in shown
    assert "\x1b[31m" in shown
