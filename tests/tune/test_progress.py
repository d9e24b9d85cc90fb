"""What is seen of a study while it runs."""

import io
import os
import pty
import re
import time

import pytest

from mergekit_breadcrumbs.tune.progress import Display
from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.trials import Trial


def trial(number, score, seconds=60.0):
    """Return a trial with this score; one that failed if that is None."""
    values = {"density": 0.1 * number, "gamma": 0.0123456}
    if score is None:
        return Trial(number, values, None, {}, "it broke", seconds, "failed")
    scores = {"it": Score(score, 0.01)}
    return Trial(number, values, score, scores, None, seconds, "complete")


def shown(*trials, done=(), quiet=False, wanted=10):
    """Return what is written of a search without a terminal."""
    stream = io.StringIO()
    with Display(stream, quiet=quiet) as display:
        display.scored("base", {"a": Score(0.25), "b": Score(0.5)}, "")
        display.scored("math", {}, "no tokenizer")
        display.search("ties", wanted, done)
        for one in trials:
            display.begin()
            display.trial(one)
        display.finish()
    return stream.getvalue().splitlines()


def test_lines():
    """Piped, each trial is a line with its values, the best, and the time left."""
    assert shown(trial(1, 0.5), trial(2, None), trial(3, 0.25)) == [
        "base: 0.375 (a 0.25, b 0.5)",
        "math: no score: no tokenizer",
        "Searching ties: 10 trials.",
        "trial 1 of 10: 0.5 ± 0.0196 with density 0.1, gamma 0.0123; the best so far;"
        " 9 min left",
        "trial 2 of 10: failed: it broke (density 0.2, gamma 0.0123)",
        "trial 3 of 10: 0.25 ± 0.0196 with density 0.3, gamma 0.0123; best 0.5; 7 min"
        " left",
    ]


def test_going_on():
    """What is done before counts, and its time tells how long the rest will take."""
    lines = shown(trial(2, 0.5), done=[trial(1, 0.7, 3600)], wanted=3)
    assert lines[2] == "Searching ties: 3 trials, 1 of them done."
    assert lines[3].endswith("best 0.7; 30 min left")
    assert lines[3].startswith("trial 2 of 3: ")


def test_quiet():
    """With --quiet only what failed is told."""
    assert shown(trial(1, 0.5), trial(2, None), quiet=True) == [
        "math: no score: no tokenizer",
        "trial 2 of 10: failed: it broke (density 0.2, gamma 0.0123)",
    ]


def test_no_escapes():
    """What a scorer says is no command to a terminal."""
    stream = io.StringIO()
    with Display(stream) as display:
        display.scored("base", {}, "Evil\x1b[31m [red]x")
    assert stream.getvalue() == "base: no score: Evil\\x1b[31m [red]x\n"


@pytest.fixture
def terminal(monkeypatch):
    """Return a terminal of 80 columns, and what reads all that was written to it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w", encoding="utf-8")

    def read():
        stream.flush()
        return os.read(ours, 1 << 16).decode()

    yield stream, read
    stream.close()
    os.close(ours)


def test_live_line(terminal):
    """On a terminal a bar shows the time left, the best score and the last one."""
    stream, read = terminal
    with Display(stream) as display:
        display.search("breadcrumbs", 30, [])
        for number, score in ((1, 0.5), (2, 0.75), (3, 0.625)):
            display.begin()
            display.trial(trial(number, score))
        time.sleep(0.3)
        display.finish()
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read()))
    bars = [line for line in lines if "━" in line]
    assert "best 0.75, last 0.625" in bars[-1]
    assert "trial 4 of 30" in bars[-1]
    assert "27 min left" in bars[-1]
    assert all(len(line) <= 80 for line in lines)
    assert not any("with density" in line for line in lines)


def test_time_goes_on(terminal):
    """The bar moves on while a trial runs, without anybody's doing."""
    stream, read = terminal
    with Display(stream) as display:
        display.search("breadcrumbs", 3, [trial(1, 0.5, seconds=20)])
        display.begin()
        time.sleep(1.6)
        display.finish()
    assert {"40 s left", "39 s left"} <= set(re.findall(r"\d+ s left", read()))
