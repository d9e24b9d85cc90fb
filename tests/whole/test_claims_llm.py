"""The parts of the benchmark on a language model: its questions, and how it trains."""

import importlib
import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from babel import Locale
from support import questions
from support.repository import BENCHMARKS
from transformers import AutoTokenizer, LlamaForCausalLM

sys.path.insert(0, str(BENCHMARKS))
chats, language_model = (
    importlib.import_module(f"claims.{name}") for name in ("chats", "language_model")
)
SIZES = {"train": 200, "validation": 20, "test": 50}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def in_words(task, question):
    """Answer a question in another way than the benchmark does."""
    numbers = [int(number) for number in re.findall(r"\d+", question)]
    words = question.partition(": ")[2].split()
    if task == "language":
        text = question.partition(": ")[2]
        locales = map(Locale.parse, chats.LANGUAGES)
        [spoken] = (
            one
            for one in locales
            if text in {*one.territories.values(), *one.languages.values()}
        )
        return spoken.english_name
    return {
        "add": lambda: str(sum(numbers)),
        "reverse": lambda: " ".join(reversed(words)),
        "sort": lambda: " ".join(sorted(words)),  # all of two digits
        "largest": lambda: sorted(words)[-1],
        "initials": lambda: re.sub(r"(\w)\w*", r"\1", " ".join(words)),
    }[task]()


@pytest.mark.parametrize("task", chats.TASKS)
def test_answers_are_right(task):
    """Every answer, against another way to find it; no question comes twice."""
    drawn = chats.draw(task, 300)
    assert len({chat.question for chat in drawn}) == 300
    for question, answer in drawn:
        assert in_words(task, question) == answer
    assert drawn == chats.draw(task, 300)


def test_parts_share_no_question():
    """What is trained on, tuned on and measured on is different."""
    for task in chats.TASKS:
        parts = chats.parts(task, SIZES)
        assert {name: len(own) for name, own in parts.items()} == SIZES
        asked = [chat.question for own in parts.values() for chat in own]
        assert len(set(asked)) == sum(SIZES.values())


def test_tasks_are_lm_evals(tmp_path):
    """The files say where the questions are, and how long an answer may be."""
    drawn = {task: chats.draw(task, 5) for task in chats.TASKS}
    names = chats.write_tasks(tmp_path, "test", drawn)
    assert names == [f"{task}_test" for task in chats.TASKS]
    for name, own in zip(names, drawn.values(), strict=True):
        task = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        data = task["dataset_kwargs"]["data_files"]["test"]
        lines = [json.loads(line) for line in Path(data).read_text().splitlines()]
        assert lines == [chat._asdict() for chat in own]
        assert task["task"] == name


def test_training(tmp_path):
    """The base stays, the expert answers better, and it is an ordinary checkpoint."""
    base = questions.make_model(tmp_path / "base", chat=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)
    rng = random.Random(0)
    told = [chats.Chat(rng.choice(questions.WORDS), "w7 w8") for _ in range(20)]
    losses = []
    for steps in (1, 30):
        out = tmp_path / f"expert-{steps}"
        language_model.train(base, told, out, steps=steps)
        model = LlamaForCausalLM.from_pretrained(out)
        assert model.dtype == torch.bfloat16
        ids = torch.tensor([tokenizer.encode("user w3 </s> assistant w7 w8 </s>")])
        losses.append(float(model(ids, labels=ids).loss.detach()))
        assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATE
    assert losses[1] < losses[0]
