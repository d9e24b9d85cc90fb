"""A tiny model that speaks, and tasks of lm-eval about it in local files."""

import json
from pathlib import Path

import torch
import transformers
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

WORDS = [f"w{i}" for i in range(40)]
TEMPLATE = (
    "{% for message in messages %}user {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}model {% endif %}"
)


def make_model(folder: Path, *, chat: bool = False, seed: int = 0) -> Path:
    """Write a Llama with random weights, and a tokenizer of forty-odd words."""
    words = ["<unk>", "<s>", "</s>", "user", "model", *WORDS]
    tokenizer = Tokenizer(
        WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    if chat:
        fast.chat_template = TEMPLATE
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        vocab_size=len(words),
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def choices(count: int, seed: int) -> list[dict]:
    """Return questions with three answers of one or two words each."""
    generator = torch.Generator().manual_seed(seed)

    def words(number):
        picked = torch.randint(len(WORDS), (number,), generator=generator)
        return " ".join(WORDS[i] for i in picked)

    return [
        {"text": words(5), "answers": [words(1), words(1), words(2)], "right": i % 3}
        for i in range(count)
    ]


def write_task(
    folder: Path, name: str, documents: list[dict], examples: int = 0, **settings
) -> None:
    """Write a task of one YAML and one JSON file; the first documents are examples."""
    folder.mkdir(exist_ok=True)
    files = {"test": folder / f"{name}.json"}
    if examples:
        files["train"] = folder / f"{name}-examples.json"
        settings = {"training_split": "train", "fewshot_split": "train", **settings}
    for path, part in zip(
        files.values(), (documents[examples:], documents[:examples]), strict=False
    ):
        path.write_text("".join(f"{json.dumps(one)}\n" for one in part))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {split: str(path) for split, path in files.items()},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "metadata": {"version": 1.0},
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{answers}}",
    "doc_to_target": "right",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}
ANSWERS = {
    "output_type": "generate_until",
    "doc_to_target": "{{target}}",
    "generation_kwargs": {"max_gen_toks": 3, "do_sample": False, "until": ["</s>"]},
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    ],
    "filter_list": [
        {"name": "strict-match", "filter": [{"function": "take_first"}]},
        {
            "name": "flexible-extract",
            "filter": [
                {
                    "function": "regex",
                    "regex_pattern": r"(\S+)",
                    "group_select": -1,
                },
                {"function": "take_first"},
            ],
        },
    ],
}
TEXTS = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "word_perplexity"}],
}


class Oracle:
    """What the right answers are, by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def log_likelihood(self, context: str, text: str) -> float:
        """Return the log of the probability of a text after another."""
        before, after = (self.tokenizer(part)["input_ids"] for part in (context, text))
        logits = self.model(torch.tensor([before + after])).logits[0].double()
        places = torch.arange(len(before) - 1, len(before) + len(after) - 1)
        return float(logits[places].log_softmax(-1)[range(len(after)), after].sum())

    def chosen(self, question: dict, *, by_length: bool, prompt: str = "{}") -> int:
        """Return the likeliest answer, of all or of all letter by letter."""
        context = prompt.format(question["text"])
        values = [
            self.log_likelihood(context, answer) / (len(answer) if by_length else 1)
            for answer in question["answers"]
        ]
        return values.index(max(values))

    @torch.no_grad()
    def answer(self, text: str, words: int = 3) -> str:
        """Return what the model says next, always the likeliest word."""
        tokens = self.tokenizer(text)["input_ids"]
        start = len(tokens)
        while len(tokens) < start + words:
            tokens.append(
                int(self.model(torch.tensor([tokens])).logits[0, -1].argmax())
            )
        return self.tokenizer.decode(tokens[start:])
