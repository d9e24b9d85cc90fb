"""Scores from shell commands, which are real ones and do what they should not."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from support.candidates import FolderCandidate

from mergekit_breadcrumbs.tune.command import CommandScorer
from mergekit_breadcrumbs.tune.scores import Score, ScoringFailed

PYTHON = shlex.quote(sys.executable)


def python(code):
    """A command that runs a program of Python's and says where the model is."""
    return f"{PYTHON} -c {shlex.quote(code)} {{model}}"


def score(command, folder, timeout=60.0):
    return CommandScorer(command, timeout)(FolderCandidate(folder))


def failure(command, folder, timeout=60.0):
    with pytest.raises(ScoringFailed) as raised:
        score(command, folder, timeout)
    return str(raised.value)


SCORES = {
    "a number": ("echo 0.5 {model}| cut -d' ' -f1", {"score": Score(0.5)}),
    "the last line": ("echo 7; echo 0.25; : {model}", {"score": Score(0.25)}),
    "empty lines after it": (r"printf '1e-3\n\n \r\n'", {"score": Score(1e-3)}),
    "no end of line": ("printf -- -3", {"score": Score(-3.0)}),
    "a bar before it": (r"printf '10%%\r90%%\r0.5'", {"score": Score(0.5)}),
    "an object": (
        """echo '{"gsm8k": 0.4, "mbpp": 1}'""",
        {"gsm8k": Score(0.4), "mbpp": Score(1.0)},
    ),
    "an object with errors": (
        """echo '{"a": {"value": 0.4, "error": 0.1}, "b": {"value": 2}}'""",
        {"a": Score(0.4, 0.1), "b": Score(2.0)},
    ),
    "one with its error, not two": (
        """echo '{"value": 0.4, "error": null}'""",
        {"score": Score(0.4)},
    ),
    "warnings on stderr": ("echo 0.5; echo oh >&2", {"score": Score(0.5)}),
    "nothing to read": ("cat; echo 1", {"score": Score(1.0)}),
}


@pytest.mark.parametrize(("command", "expected"), SCORES.values(), ids=SCORES)
def test_scores(command, expected, tmp_path):
    """The last line that is not empty counts, and nothing else."""
    assert score(command, tmp_path) == expected


FAILURES = {
    "nothing": ("true", "it printed no score"),
    "only empty lines": ("echo; echo", "it printed no score"),
    "nothing, with words": ("echo no data >&2", "it printed no score: no data"),
    "words": (
        "echo accuracy: 0.5",
        "its last line is no number and no JSON object: accuracy: 0.5",
    ),
    "words after it": (
        "echo 0.5; echo done",
        "its last line is no number and no JSON object: done",
    ),
    "a list": (
        "echo '[0.5]'",
        "its last line is no number and no JSON object: [0.5]",
    ),
    "broken JSON": (
        """echo '{"a": 1'""",
        'its last line is no number and no JSON object: {"a": 1',
    ),
    "deep JSON": (
        python("print('{\"a\":' * 100_000)"),
        "its last line is no number and no JSON object: " + '{"a":' * 23 + '{"...',
    ),
    "nan": ("echo nan", "score must be a finite number; got nan"),
    "infinite": ("echo -1e999", "score must be a finite number; got -inf"),
    "NaN in JSON": (
        """echo '{"a": 1, "b": NaN}'; echo loss is gone >&2""",
        "b must be a finite number; got nan: loss is gone",
    ),
    "a huge integer": (
        python("print('{\"a\": 1' + '0' * 999 + '}')"),
        "a must be a finite number; got inf",
    ),
    "nested JSON": (
        """echo '{"gsm8k": {"acc": 0.4}}'""",
        "gsm8k must be a number; got {'acc': 0.4}",
    ),
    "true": ("""echo '{"a": true}'""", "a must be a number; got True"),
    "text in JSON": ("""echo '{"a": "0.5"}'""", "a must be a number; got '0.5'"),
    "an empty object": ("echo '{}'", "there is no score in {}"),
    "error below 0": (
        """echo '{"a": {"value": 1, "error": -1}}'""",
        "error of a must be at least 0; got -1",
    ),
    "exit status": ("echo 0.5; exit 3", "exit status 3: 0.5"),
    "exit status alone": ("exit 255", "exit status 255"),
    "no such command": ("nosuch {model}", "nosuch: not found"),
    "a traceback": (
        python("{}['gsm8k']"),
        "exit status 1: KeyError: 'gsm8k'",
    ),
    "an abort": (python("import os; os.abort()"), "killed by SIGABRT"),
    "kill -9": (
        python("import os; print('step 7', flush=True); os.kill(os.getpid(), 9)"),
        "killed by SIGKILL; out of memory?: step 7",
    ),
    "kill -9 of the shell": ("kill -9 $$", "killed by SIGKILL; out of memory?"),
    "kill -9 of another": (
        f"{PYTHON} -c 'import os; os.kill(os.getpid(), 9)'; exit $?",
        "killed by SIGKILL; out of memory?",
    ),
    "binary": (
        r"printf '\377\000\033[31mX\n'",
        "its last line is no number and no JSON object: \N{REPLACEMENT CHARACTER}"
        r"\x00\x1b[31mX",
    ),
    "binary on stderr": (
        r"printf '\033]0;X\007' >&2; exit 1",
        r"exit status 1: \x1b]0;X\x07",
    ),
    "long words": (python("exit('x' * 9999)"), "exit status 1: " + "x" * 117 + "..."),
}


# What depends on the shell, in part.
OF_THE_SHELL = ("no such command",)


@pytest.mark.parametrize(("command", "said"), FAILURES.values(), ids=FAILURES)
def test_failures(command, said, tmp_path):
    """One line says what happened, with the command's own last words."""
    text = failure(command, tmp_path)
    assert said in text
    if command not in (FAILURES[name][0] for name in OF_THE_SHELL):
        assert text == said
    assert text.isprintable()


def test_folder_is_quoted(tmp_path):
    """A folder of any name is one word, in all its places."""
    folder = tmp_path / "it's $HOME; echo 7"
    folder.mkdir()
    (folder / "score").write_text("0.5")
    command = "cat {model}/score && echo && cat {model}/score"
    assert score(command, folder) == {"score": Score(0.5)}


def test_huge_output(tmp_path):
    """Of 100 MB on both streams the end is read, in little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command = "yes 0123456789 | head -c 100000000 | tee /dev/stderr; echo 0.5"
    assert score(command, tmp_path) == {"score": Score(0.5)}
    # In kB, as Linux counts them.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_hang(tmp_path):
    """It is ended in time, and its own last words are shown."""
    start = time.monotonic()
    command = "echo step 7 >&2; echo 0.5; sleep 600"
    assert failure(command, tmp_path, 0.5) == "timed out after 0.5 s: step 7"
    assert time.monotonic() - start < 4


def marked(number):
    """Return the processes of this user that sleep for a number of seconds."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if line[:2] == ["sleep", number] and process.info["status"] != "zombie":
            found.append(process.pid)
    return found


SURVIVORS = {
    "in the background": ("sleep {n} & echo 0.5", 60.0, None),
    "apart": ("setsid sleep {n} & echo 0.5", 60.0, None),
    "orphaned, apart": ("setsid sh -c 'sleep {n} & exit' & wait; echo 0.5", 60.0, None),
    "silent": ("sleep {n} >/dev/null 2>&1 & echo 0.5", 60.0, None),
    "without surroundings": ("env -i sleep {n} & echo 0.5", 60.0, None),
    "of a hanging one": ("sleep {n} & sleep {n}", 0.5, "timed out after 0.5 s"),
    "of one, apart": ("setsid sleep {n} & sleep {n}", 0.5, "timed out after 0.5 s"),
    "of a crash": ("sleep {n} & exit 1", 60.0, "exit status 1"),
}


@pytest.mark.parametrize(
    ("command", "timeout", "said"), SURVIVORS.values(), ids=SURVIVORS
)
def test_none_survives(command, timeout, said, tmp_path):
    """When the command is over, so is all that it started."""
    number = str(10_000 + os.getpid() % 10_000)
    command, start = command.replace("{n}", number), time.monotonic()
    if said is None:
        assert score(command, tmp_path, timeout) == {"score": Score(0.5)}
    else:
        assert failure(command, tmp_path, timeout) == said
    assert marked(number) == []
    assert time.monotonic() - start < 4


@pytest.mark.slow
def test_deaf(tmp_path):
    """What does not end when it is told to is killed a few seconds later."""
    number = str(30_000 + os.getpid() % 10_000)
    code = (
        "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"os.execlp('sleep', 'sleep', '{number}')"
    )
    assert failure(python(code), tmp_path, 0.5) == "timed out after 0.5 s"
    assert marked(number) == []


def test_a_pipe_is_emptied(tmp_path):
    """What another process still writes when the shell is over is not lost."""
    command = "bash -c '(echo 7; sleep 0.3; echo 0.5) &'"
    assert score(command, tmp_path) == {"score": Score(0.5)}


def test_interrupt(tmp_path):
    """Ctrl-C ends the command, too, and is what is raised."""
    number = str(20_000 + os.getpid() % 10_000)

    def interrupt():
        deadline = time.monotonic() + 30
        while not marked(number) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        score(f"sleep {number} & sleep {number}", tmp_path)
    thread.join()
    assert marked(number) == []


def test_told_first(tmp_path):
    """What is ended is told to end before it is killed, and may tidy up."""
    tidy = "sleep 0.5 && touch {model}/tidy"
    command = f"trap '{tidy}; exit' TERM; sleep 600 & wait"
    # Long enough for a shell to start on a busy machine.
    assert failure(command, tmp_path, 8) == "timed out after 8 s"
    assert (tmp_path / "tidy").exists()


def test_not_of_this_terminal(tmp_path):
    """The command has another session and no input, so that it cannot ask."""
    (tmp_path / "typed").write_text("typed")
    before = os.dup(0)
    with open(tmp_path / "typed", "rb") as typed:
        os.dup2(typed.fileno(), 0)
    try:
        _check_that_it_cannot_ask(tmp_path)
    finally:
        os.dup2(before, 0)
        os.close(before)


def _check_that_it_cannot_ask(tmp_path):
    code = "import os, sys; print(os.getsid(0) != int(sys.argv[2]), sys.stdin.read())"
    command = f"{python(code)} {os.getsid(0)}"
    assert failure(command, tmp_path).endswith("no JSON object: True")


def test_streams_are_not_inherited(tmp_path, capfd):
    """Nothing of the command's gets to the terminal."""
    score("echo words >&2; echo 0.5", tmp_path)
    assert capfd.readouterr() == ("", "")


def test_cannot_start(tmp_path):
    """What the system refuses is a failure in its own words."""
    command = f"echo {'x' * 200_000}"
    assert failure(command, tmp_path) == "it cannot be started: Argument list too long"


def test_files_are_closed(tmp_path):
    """Many runs leave no file open, and no process."""
    process = psutil.Process()
    score("echo 1", tmp_path)
    before = process.num_fds()
    for _ in range(5):
        score("echo 1", tmp_path)
    assert process.num_fds() == before
    assert not [p for p in process.children() if p.name() in ("sh", "sleep")]
    assert subprocess.run(["true"], check=True).returncode == 0
