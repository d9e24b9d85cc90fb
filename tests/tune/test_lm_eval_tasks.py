"""Scores from lm-eval, on a tiny model and tasks in local files."""

import logging
import math
import os
import random
import socket
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import transformers
import yaml
from support import questions
from support.candidates import FolderCandidate
from support.questions import Oracle

from mergekit_breadcrumbs.tune import lm_eval_process
from mergekit_breadcrumbs.tune.lm_eval_tasks import LmEvalScorer
from mergekit_breadcrumbs.tune.scores import Score, ScoringFailed

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, one that chats, and tasks whose questions are known."""
    root = tmp_path_factory.mktemp("tasks")
    made = SimpleNamespace(root=root, tasks=root / "tasks")
    made.model = questions.make_model(root / "model")
    made.chat = questions.make_model(root / "chat", chat=True, seed=3)
    made.oracle = Oracle(made.model)
    made.choices = {
        "bc_few": questions.choices(9, 1),
        "bc_more": questions.choices(21, 2),
    }
    for name, documents in made.choices.items():
        settings = {**questions.CHOICES, "tag": "bc_tag"}
        questions.write_task(made.tasks, name, documents, **settings)
    made.answers = [
        {"text": one["text"], "said": made.oracle.answer(one["text"])}
        for one in questions.choices(12, 3)
    ]
    for i, one in enumerate(made.answers):
        # All that is said, its last word, or neither.
        one["target"] = (one["said"], one["said"].split()[-1], "w")[min(i % 6, 2)]
    questions.write_task(made.tasks, "bc_answers", made.answers, **questions.ANSWERS)
    questions.write_task(made.tasks, "bc_texts", made.answers, **questions.TEXTS)
    for name, settings in GROUPS.items():
        config = {"group": name, "task": [*made.choices], **settings}
        (made.tasks / f"{name}.yaml").write_text(yaml.safe_dump(config))
    _write_special_tasks(made)
    return made


def _write_special_tasks(made):
    settings = {**questions.ANSWERS, "unsafe_code": True}
    questions.write_task(made.tasks, "bc_code", made.answers, **settings)
    made.examples = questions.choices(23, 4)
    for name, sampler in (("bc_first", "first_n"), ("bc_any", "default")):
        settings = {**questions.CHOICES, "fewshot_config": {"sampler": sampler}}
        questions.write_task(made.tasks, name, made.examples, 8, **settings)
    metric = {"metric": "f1", "aggregation": "f1", "higher_is_better": True}
    settings = {**questions.CHOICES, "metric_list": [metric]}
    documents = [
        {**one, "answers": one["answers"][:2], "right": one["right"] % 2}
        for one in made.choices["bc_more"]
    ]
    questions.write_task(made.tasks, "bc_f1", documents, **settings)


GROUPS = {
    "bc_group": {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]},
    "bc_loose_group": {},
}


def scorer(made, tasks, **settings):
    return LmEvalScorer(tasks, tasks_folder=made.tasks, **settings)


def score(made, tasks, model=None, **settings):
    return scorer(made, tasks, **settings)(FolderCandidate(model or made.model))


def accuracy(oracle, documents, **how):
    right = [oracle.chosen(one, **how) == one["right"] for one in documents]
    return sum(right) / len(right)


def binomial(value, count):
    return pytest.approx(math.sqrt(value * (1 - value) / (count - 1)))


def test_choices(made):
    """The accuracy is that by log-likelihoods, and its error that of a binomial."""
    documents = made.choices["bc_more"]
    plain = accuracy(made.oracle, documents, by_length=False)
    by_length = accuracy(made.oracle, documents, by_length=True)
    assert len({0, 1, plain, by_length}) == 4, "the questions tell them apart"
    assert score(made, "bc_more") == {
        "bc_more": Score(pytest.approx(by_length), binomial(by_length, 21))
    }
    assert score(made, "bc_more/acc, bc_few", batch_size=4) == {
        "bc_more/acc": Score(pytest.approx(plain), binomial(plain, 21)),
        "bc_few": Score(
            pytest.approx(
                accuracy(made.oracle, made.choices["bc_few"], by_length=True)
            ),
            pytest.approx(0.17, abs=0.05),
        ),
    }


def test_answers(made):
    """Words are generated; the last word counts, unless all of them are asked for."""
    asked = "bc_answers,bc_answers/exact_match,strict-match"
    scored = scorer(made, asked)
    assert scored.measures == {
        "bc_answers": "exact_match,flexible-extract",
        "bc_answers/exact_match,strict-match": "exact_match,strict-match",
    }
    found = scored(FolderCandidate(made.model))
    for one in made.answers:
        one["last"] = one["said"].split()[-1]
    flexible = np.mean([one["last"] == one["target"] for one in made.answers])
    strict = np.mean([one["said"] == one["target"] for one in made.answers])
    assert min(flexible, strict) > 0
    assert found == {
        "bc_answers": Score(pytest.approx(flexible), binomial(flexible, 12)),
        "bc_answers/exact_match,strict-match": Score(
            pytest.approx(strict), binomial(strict, 12)
        ),
    }


def test_less_is_better(made):
    """Of a perplexity the negative is the score, and that is said."""
    scored = scorer(made, "bc_texts")
    words = "minus word_perplexity, of which less is better"
    assert scored.measures == {"bc_texts": words}
    (found,) = scored(FolderCandidate(made.model)).values()
    total = [made.oracle.log_likelihood("<s>", one["text"]) for one in made.answers]
    assert found.value == pytest.approx(-math.exp(-sum(total) / (12 * 5)), rel=1e-4)


def test_group(made):
    """A group with a number has that; the tasks of another, or of a tag, theirs."""
    values = {
        name: accuracy(made.oracle, documents, by_length=False)
        for name, documents in made.choices.items()
    }
    pooled = (9 * values["bc_few"] + 21 * values["bc_more"]) / 30
    (found,) = score(made, "bc_group").values()
    assert found.value == pytest.approx(pooled)
    assert found.error == pytest.approx(math.sqrt(pooled * (1 - pooled) / 29), rel=0.1)
    for name in ("bc_loose_group", "bc_tag"):
        found = score(made, f"{name}/acc")
        assert {key: one.value for key, one in found.items()} == {
            f"{name}/acc": pytest.approx(value) for name, value in values.items()
        }


def test_chat_template(made):
    """It is used where the tokenizer has one, unless it is turned off."""
    oracle, documents = Oracle(made.chat), made.choices["bc_more"]
    with_template = accuracy(oracle, documents, by_length=True, prompt="user {} model")
    without = accuracy(oracle, documents, by_length=True)
    assert with_template != without
    for chat, expected in (
        (None, with_template),
        (True, with_template),
        (False, without),
    ):
        (found,) = score(made, "bc_more", made.chat, chat_template=chat).values()
        assert found.value == pytest.approx(expected)


def test_examples(made):
    """So many examples stand before a question, and the same ones every time."""
    documents = made.examples
    before = "".join(
        f"{one['text']} {one['answers'][one['right']]} " for one in documents[:2]
    )
    expected = [
        accuracy(made.oracle, documents[8:], by_length=True, prompt=f"{shown}{{}}")
        for shown in ("", before)
    ]
    assert expected[0] != expected[1]
    for number, value in ((None, expected[0]), (2, expected[1])):
        scored = scorer(made, "bc_first,bc_any", num_fewshot=number)
        found = scored(FolderCandidate(made.model))
        assert found["bc_first"].value == pytest.approx(value)
        assert scored(FolderCandidate(made.model)) == found


def test_resampled_error(made):
    """An error without a formula is resampled, in this process and every time alike."""
    scored = scorer(made, "bc_f1")
    children = psutil.Process().children()
    first, again = (scored(FolderCandidate(made.model)) for _ in range(2))
    assert first == again
    assert 0.02 < first["bc_f1"].error < 0.4
    assert psutil.Process().children() == children
    assert "DISABLE_MULTIPROC" not in os.environ


def test_limit(made):
    """The first questions, or a fraction of them; of one there is no error."""
    documents = made.choices["bc_more"]
    for limit, count in ((6, 6), (0.5, 11)):
        expected = accuracy(made.oracle, documents[:count], by_length=True)
        (found,) = score(made, "bc_more", limit=limit).values()
        assert found == Score(pytest.approx(expected), binomial(expected, count))
    (found,) = score(made, "bc_more", limit=1).values()
    assert found.error is None


def test_same_again(made):
    """One scorer gives one model one score, whatever it scored in between."""
    scored = scorer(made, "bc_more,bc_answers,bc_texts")
    first = scored(FolderCandidate(made.model))
    other = questions.make_model(made.root / "other", seed=7)
    assert scored(FolderCandidate(other)) != first
    assert scored(FolderCandidate(made.model)) == first


def talkative(candidate):
    """Have the model warn and log, as those of transformers do."""
    model, tokenizer = candidate.load()
    forward, log = (
        model.forward,
        transformers.utils.logging.get_logger("transformers.x"),
    )

    def forward_with_words(*args, **kwargs):
        warnings.warn("this is old", FutureWarning, stacklevel=1)
        log.warning("this is odd")
        return forward(*args, **kwargs)

    model.forward = forward_with_words
    candidate.load = lambda: (model, tokenizer)
    return candidate


def test_in_memory_and_alone(made, monkeypatch):
    """No folder is asked for, and nothing is fetched, or left changed."""

    def connect(*_):
        raise AssertionError("nobody connects anywhere")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    candidate = FolderCandidate(made.model)
    level, streams = logging.getLogger("lm_eval").level, (sys.stdout, sys.stderr)
    with torch.random.fork_rng(devices=[]):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(os.getpid())
        before = random_states()
        scorer(made, "bc_few,bc_answers")(candidate)
        assert random_states() == before
    assert (candidate.asked, candidate.loaded) == (0, 1)
    assert (sys.stdout, sys.stderr) == streams
    assert logging.getLogger("lm_eval").level == level


def random_states():
    numpy = np.random.get_state()[1].tolist()
    return random.getstate(), numpy, torch.get_rng_state().tolist()


def test_quiet(made, capfd, caplog):
    """Nothing is printed, logged or warned of, by whatever part of it."""
    candidate, scored = talkative(FolderCandidate(made.model)), scorer(made, "bc_f1")
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        scored(candidate)
    assert capfd.readouterr() == ("", "")
    assert not warned
    assert not caplog.records


REFUSED = {
    "task": ("bc_fwe", "lm-eval has no task bc_fwe; did you mean bc_few?"),
    "built-in task": ("gms8k", "lm-eval has no task gms8k; did you mean gsm8k?"),
    "metric": (
        "bc_few/acc_nrm",
        "task bc_few has no metric acc_nrm; it has acc, acc_norm; did you mean"
        " acc_norm?",
    ),
    "filter": (
        "bc_answers/exact_match,strict,bc_few",
        "task bc_answers has no filter strict; it has strict-match, flexible-extract;"
        " did you mean strict-match?",
    ),
    "none": (" , ", "lm-eval: needs the names of tasks, such as lm-eval:gsm8k"),
    "twice": ("bc_few,bc_group", "lm-eval: task bc_few is asked for twice"),
    "no data": ("gsm8k", "lm-eval cannot read task gsm8k: "),
}


@pytest.mark.parametrize(("tasks", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(tasks, said, made):
    """What cannot be scored is an error at once, with the nearest name."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # compared whole
        scorer(made, tasks)
    assert str(raised.value).startswith(said)
    assert str(raised.value) == said or said.endswith(": ")


def test_runs_code(made):
    """A task that runs what a model writes has to be allowed."""
    with pytest.raises(
        ValueError, match="task bc_code runs code that the model writes"
    ):
        scorer(made, "bc_code")
    allowed = scorer(made, "bc_code", run_code=True)
    assert allowed(FolderCandidate(made.model)).keys() == {"bc_code"}


def test_no_folder(made):
    """A folder of tasks that is not there is named."""
    with pytest.raises(ValueError, match="there is no folder /nowhere"):
        LmEvalScorer("bc_few", tasks_folder=Path("/nowhere"))


def test_failures(made):
    """A model without a tokenizer, one that crashes, and one that hangs."""
    scored = scorer(made, "bc_few", timeout=0.5)
    with pytest.raises(ScoringFailed, match="has no tokenizer, and lm-eval needs one"):
        scored(FolderCandidate(made.model, tokenizer=False))
    candidate = FolderCandidate(made.model)
    model, tokenizer = candidate.load()
    candidate.load = lambda: (model, tokenizer)

    def crash(*_, **__):
        raise RuntimeError("no memory\nfor that")

    def hang(*_, **__):
        while True:
            torch.ones(8, 8).sum()

    for broken, said in (
        (crash, "RuntimeError: no memory for that, in "),
        (hang, "time"),
    ):
        model.forward = broken
        with pytest.raises(ScoringFailed) as raised:
            scored(candidate)
        assert str(raised.value).startswith(said)
    assert str(raised.value) == "timed out after 0.5 s"
    del model.forward
    assert scored(candidate).keys() == {"bc_few"}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("lm_eval", "lm-eval is not installed: "),
        ("accelerate", "accelerate, which lm-eval needs, is not installed: "),
    ],
)
def test_not_installed(module, said, monkeypatch):
    """The error says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    lm_eval_process.task_manager.cache_clear()
    with pytest.raises(ImportError) as raised:
        LmEvalScorer("gsm8k")
    assert str(raised.value) == f"{said}pip install 'mergekit-breadcrumbs[lm-eval]'"
    assert raised.value.name is None
