"""Folders that do not hold what their config says: each fault, and nothing else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import make_tokenizer
from support.damage import (
    INDEX,
    Damage,
    both,
    copy,
    cut,
    remove,
    rename,
    settings,
    tensors,
    text,
    weight_map,
)
from support.files import digests
from support.merged_folders import merge_folder, models, said, verified
from support.merging import configuration
from torch import Tensor

from mergekit_breadcrumbs.verify.faults import remedy

NAME = "model.layers.1.mlp.up_proj.weight"
HEAD = "lm_head.weight"
FIRST, SECOND, SIXTH = (f"model-0000{i}-of-00007.safetensors" for i in (1, 2, 6))
MERGE = "mergekit_config.yml"
AGAIN = "merge again into an empty folder"
DAMAGED = f"copy the damaged file again, or {AGAIN}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merges of the same models, in `one` file, in `seven`, by `others` parameters."""
    root = tmp_path_factory.mktemp("folders")
    base, *tuned = models(root)
    inputs = {Path(p): {"weight": 0.7, "density": 0.8, "gamma": 0.05} for p in tuned}
    config = configuration("breadcrumbs", Path(base), inputs)
    merge_folder(config, root / "one")
    merge_folder(config, root / "seven", out_shard_size=16_000)
    merge_folder(config, root / "pickled", safe_serialization=False)
    other = config | {"parameters": {"lambda": 0.5}}
    merge_folder(other, root / "others", out_shard_size=16_000)
    make_tokenizer(60).save_pretrained(root / "tokenizer")
    return root


@pytest.fixture
def damaged(folders: Path) -> Any:
    """Copies a folder, and does something to the copy."""
    out = folders / "out"

    def make(name: str, damage: Damage) -> Path:
        shutil.copytree(folders / name, out)
        damage(out)
        return out

    yield make
    shutil.rmtree(out)


def _bit(index: int, bit: int) -> Callable[[dict[str, Tensor]], object]:
    def change(found: dict[str, Tensor]) -> None:
        found[NAME].view(torch.int32).view(-1)[index] ^= 1 << bit

    return change


def _set(value: float, count: int = 1) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: found[NAME].view(-1)[:count].fill_(value)


def _replace(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
    return tensors(lambda found: found.update({name: change(found[NAME])}))


TENSORS: dict[str, tuple[str, Damage, list[str]]] = {
    "one changed bit": (
        "one",
        tensors(_bit(7, 20)),
        [f"BC901 {NAME} differs in 1 of 1,536 elements, in one bit, by 0.00"],
    ),
    "one changed bit in a pickle": (
        "pickled",
        tensors(_bit(0, 31)),
        [f"BC901 {NAME} differs in 1 of 1,536 elements, in one bit, by 0.0"],
    ),
    "NaN": (
        "one",
        tensors(_set(torch.nan)),
        [
            f"BC901 {NAME} differs in 1 of 1,536 elements, where one is not a number",
            f"BC910 {NAME} has 1 element not finite",
        ],
    ),
    "infinity": (
        "one",
        tensors(_set(torch.inf, 2)),
        [
            f"BC901 {NAME} differs in 2 of 1,536 elements, by at most inf",
            f"BC910 {NAME} has 2 elements not finite",
        ],
    ),
    "another dtype": (
        "one",
        _replace(NAME, lambda t: t.half()),
        [f"BC901 {NAME} is 48 x 32, float16, but 48 x 32, float32 by the config"],
    ),
    "another shape": (
        "one",
        _replace(NAME, lambda t: t[1:]),
        [f"BC901 {NAME} is 47 x 32, float32, but 48 x 32, float32 by the config"],
    ),
    "too few": ("one", tensors(lambda t: t.pop(NAME)), [f"BC903 {NAME}"]),
    "too many, with control characters": (
        "one",
        _replace("a\x1b[31mb\ud800".encode("utf-8", "replace").decode(), torch.clone),
        ["BC904 a\\x1b[31mb? (model.safetensors)"],
    ),
    "two merges mixed": (
        "seven",
        copy(f"others/{SECOND}"),
        [
            "BC901 model.embed_tokens.weight differs in 1,866 of 2,048 elements, by at",
            "BC901 model.layers.0.input_layernorm.weight differs in 30 of 32 elements",
            "BC901 model.layers.0.mlp.down_proj.weight differs in 1,414 of 1,536",
        ],
    ),
}
FILES: dict[str, tuple[str, Damage, list[str]]] = {
    "a tensor that the index does not name": (
        "seven",
        weight_map(lambda m: m.pop(NAME)),
        [f"BC908 {INDEX} does not name what is there: {NAME} ({SIXTH})"],
    ),
    "an index that names another file": (
        "seven",
        weight_map(lambda m: m.update({NAME: FIRST, "ghost": FIRST})),
        [
            f"BC908 {INDEX} names what is not there: {NAME} in {FIRST}, ghost in",
            f"BC908 {INDEX} does not name what is there: {NAME} ({SIXTH})",
        ],
    ),
    "the index of another merge": (
        "seven",
        weight_map(lambda m: m.update(dict.fromkeys(m, FIRST))),
        [
            f"BC907 {SECOND}, {SECOND.replace('2-', '3-')}, ",
            f"BC908 {INDEX} names what is not there: ",
            *["BC903 "] * 20,
        ],
    ),
    "an index that leads out of the folder": (
        "seven",
        weight_map(lambda m: m.update({NAME: "../x.safetensors"})),
        [f"BC912 {INDEX} names '../x.safetensors', which is no file of a merge"],
    ),
    "an index that names no files": (
        "seven",
        weight_map(lambda m: m.update({NAME: 7})),
        [f"BC912 {INDEX} names 7, which is no file of a merge"],
    ),
    "an index cut off": (
        "seven",
        cut(INDEX, -100),
        [f"BC912 {INDEX} cannot be read: Unterminated string"],
    ),
    "an index without names": (
        "seven",
        text(INDEX, "", "[1]"),
        [f"BC912 {INDEX} has no weight_map"],
    ),
    "no index": (
        "seven",
        remove(INDEX),
        [f"BC912 there is {FIRST} and 6 more, and no index of these files"],
    ),
    "a missing file": (
        "seven",
        remove(FIRST),
        [f"BC912 there is no file {FIRST}, which {INDEX} names"],
    ),
    "no weights": (
        "one",
        remove("model.safetensors"),
        ["BC912 there are no weights"],
    ),
    "a file cut off": (
        "one",
        cut("model.safetensors"),
        ["BC912 model.safetensors cannot be read: Error while deserializing header"],
    ),
    "an empty file": (
        "one",
        cut("model.safetensors", 0),
        ["BC912 model.safetensors cannot be read: it is empty"],
    ),
    "a pickle cut off": (
        "pickled",
        cut("pytorch_model.bin", -2000),
        ["BC912 pytorch_model.bin cannot be read: "],
    ),
    "a pickle of something else": (
        "pickled",
        lambda folder: torch.save([1], folder / "pytorch_model.bin"),
        ["BC912 pytorch_model.bin cannot be read: it holds no tensors by name, but"],
    ),
    "a single file beside an index": (
        "seven",
        copy("one/model.safetensors"),
        [
            f"BC906 there are model.safetensors and {INDEX}: transformers loads the"
            " first, mergekit the second; model.safetensors is compared",
            f"BC907 {FIRST}, {SECOND}, ",
        ],
    ),
    "an index beside a single file": (
        "one",
        copy(f"seven/{INDEX}"),
        [f"BC906 there are model.safetensors and {INDEX}: "],
    ),
    "pickled weights beside the others": (
        "one",
        copy("pickled/pytorch_model.bin"),
        ["BC907 pytorch_model.bin: not of this merge, and read by nothing"],
    ),
    "a file of an earlier merge": (
        "one",
        copy(f"seven/{SECOND}"),
        [f"BC907 {SECOND}: not of this merge, and read by nothing"],
    ),
    "a file of a later merge that was killed": (
        "one",
        copy("one/model.safetensors", "model-1.safetensors"),
        ["BC907 model-1.safetensors: left by a merge that did not finish"],
    ),
    "an adapter": (
        "one",
        text("adapter_config.json", "", "{}"),
        ["BC906 there is an adapter_config.json: transformers takes the folder for"],
    ),
    "killed while merging": (
        "one",
        both(
            rename("model.safetensors", "model-1.safetensors"),
            remove("config.json", MERGE, "tokenizer.json", "tokenizer_config.json"),
        ),
        [
            "BC911 there is no config.json, which mergekit writes after the weights",
            "BC911 there is model-1.safetensors, and no finished weights",
        ],
    ),
    "killed before the config": (
        "seven",
        both(remove("config.json", MERGE)),
        ["BC911 there is no config.json, which mergekit writes after the weights"],
    ),
    "killed before the index": (
        "seven",
        remove(INDEX, "config.json", MERGE),
        [
            "BC911 there is no config.json, which mergekit writes after the weights",
            f"BC911 there is {FIRST} and 6 more, and no index of these files",
        ],
    ),
}
MODEL: dict[str, tuple[str, Damage, list[str]]] = {
    "a head that should be tied": (
        "one",
        settings(tie_word_embeddings=True),
        [
            "BC914 config.json: tie_word_embeddings is True, and False by the config",
            "BC909 config.json says that the embeddings are the head (tie_word_emb",
        ],
    ),
    "no head": (
        "one",
        tensors(lambda t: t.pop(HEAD)),
        [
            f"BC903 {HEAD}",
            f"BC909 there is no {HEAD}, but config.json says that the model has one",
        ],
    ),
    "another number of layers": (
        "one",
        settings(num_hidden_layers=3),
        ["BC914 config.json: num_hidden_layers is 3, and 2 by the config"],
    ),
    "another vocabulary": (
        "one",
        settings(vocab_size=66),
        [
            "BC914 config.json: vocab_size is 66, and 64 by the config",
            "BC915 model.embed_tokens.weight has 64 rows, but config.json says vocab_",
            f"BC915 {HEAD} has 64 rows, but config.json says vocab_size 66",
        ],
    ),
    "another architecture": (
        "one",
        settings(architectures=["Evil\x1b[31mX"]),
        ["BC914 config.json: architectures is ['Evil\\x1b[31mX'], and ['LlamaForC"],
    ),
    "more and less in the config": (
        "one",
        settings(x=1, eos_token_id=7),
        [
            "BC914 config.json: eos_token_id is 7, and 2 by the config, x is 1, and"
            " None by the config"
        ],
    ),
    "an empty config": (
        "one",
        cut("config.json", 0),
        ["BC913 config.json cannot be read: it is empty"],
    ),
    "a config cut off": (
        "one",
        cut("config.json", 99),
        ["BC913 config.json cannot be read: "],
    ),
    "a config of another kind": (
        "one",
        text("config.json", "", "[]"),
        ["BC913 config.json cannot be read: it is no mapping"],
    ),
    "no tokenizer": (
        "one",
        remove("tokenizer.json", "tokenizer_config.json"),
        ["BC916 there is no tokenizer.json, tokenizer_config.json, which "],
    ),
    "half a tokenizer": (
        "one",
        remove("tokenizer.json"),
        ["BC916 there is no tokenizer.json, which "],
    ),
    "another tokenizer": (
        "one",
        copy("tokenizer/tokenizer.json"),
        ["BC917 the tokenizer is not the merge's: 4 tokens differ, such as 'word6"],
    ),
    "other special tokens": (
        "one",
        settings("tokenizer_config.json", eos_token="word9"),
        ["BC917 the tokenizer is not the merge's: it has other special tokens"],
    ),
    "a chat template": (
        "one",
        text("chat_template.jinja", "", "{{ messages }}"),
        ["BC917 the tokenizer is not the merge's: it has another chat template"],
    ),
    "another normalizer": (
        "one",
        settings("tokenizer.json", normalizer={"type": "Lowercase"}),
        ["BC917 the tokenizer is not the merge's: it splits text by other rules: norm"],
    ),
    "another model of the tokenizer": (
        "one",
        text("tokenizer.json", '"fuse_unk": false', '"fuse_unk": true'),
        ["BC917 the tokenizer is not the merge's: it splits text by other rules: fuse"],
    ),
    "a tokenizer's config cut off": (
        "one",
        cut("tokenizer_config.json", -5),
        ["BC917 the tokenizer cannot be read: "],
    ),
    "an empty tokenizer": (
        "one",
        cut("tokenizer.json", 0),
        ["BC917 the tokenizer cannot be read: "],
    ),
}
CONFIG: dict[str, tuple[str, Damage, list[str]]] = {
    "no config of the merge": (
        "one",
        remove(MERGE),
        [f"BC918 there is no {MERGE}: the merge stopped before it was written, or ran"],
    ),
    "a mixture of experts": (
        "one",
        rename(MERGE, "mergekit_moe_config.yml"),
        ["BC918 mergekit-moe made this model, and verify cannot repeat that"],
    ),
    "an empty one": ("one", cut(MERGE, 0), [f"BC918 {MERGE} cannot be read: it is em"]),
    "a broken one": (
        "one",
        text(MERGE, "", "a: [\n"),
        [f"BC918 {MERGE} cannot be read: line 2: "],
    ),
    "a list": ("one", text(MERGE, "", "[1]"), [f"BC918 {MERGE} cannot be read: it is"]),
    "bytes": (
        "one",
        lambda folder: (folder / MERGE).write_bytes(b"\xff\xfe\x00"),
        [f"BC918 {MERGE} cannot be read: 'utf-8' codec"],
    ),
    "no merge method": (
        "one",
        text(MERGE, "merge_method", "method"),
        [f"BC918 {MERGE} cannot be read: merge_method: Field required"],
    ),
    "an unknown method": (
        "one",
        text(MERGE, "breadcrumbs", "bread"),
        ["BC919 mergekit cannot repeat this merge: Unimplemented merge method bread"],
    ),
    "a bad parameter": (
        "one",
        text(MERGE, "0.8", "80"),
        ["BC919 mergekit cannot repeat this merge: density must be in [0, 1]; got 80"],
    ),
    "a model that is not here": (
        "one",
        text(MERGE, "base_model: /", "base_model: ./nowhere/"),
        ["BC919 the model ./nowhere/"],
    ),
    "the folder itself": (
        "one",
        text(MERGE, "/base\n", "/out\n"),
        ["BC919 the model "],
    ),
    "another number": (
        "one",
        text(MERGE, "weight: 0.7", "weight: 0.6999"),
        ["BC901 "] * 21,
    ),
}
REMEDIES = {
    "one changed bit": "a damaged file, or changed by hand: copy it again, or merge",
    "two merges mixed": f"{SECOND}: from another merge; {AGAIN}",
    "NaN": "a damaged file, or changed by hand",
    "too few": AGAIN,
    "a tensor that the index does not name": AGAIN,
    "a file cut off": DAMAGED,
    "no index": DAMAGED,
    "killed while merging": "the merge was not finished: run it again",
    "a single file beside an index": "delete what the merge did not write, or merge",
    "a file of an earlier merge": "delete them, or merge again",
    "a head that should be tied": "set tie_word_embeddings in config.json to what",
    "another number of layers": "put back the values that mergekit wrote",
    "no tokenizer": "copy the tokenizer's files into the folder",
    "no config of the merge": "give the config of the merge with --config FILE",
    "a model that is not here": "run this from where the merge ran",
    "another number": "merge again, or verify as it was merged",
}
CASES = TENSORS | FILES | MODEL | CONFIG


@pytest.mark.parametrize("reason", CASES)
def test_damage(reason: str, damaged: Any, folders: Path) -> None:
    """Each fault is found, and no other; nothing is written; and there is a remedy."""
    name, damage, expected = CASES[reason]
    folder = damaged(name, damage)
    before = digests(folders)
    found = verified(folder)
    texts = [f"{fault.code.value} {fault.text}" for fault in found.faults]
    assert len(texts) == len(expected), texts
    for got, start in zip(texts, expected, strict=True):
        assert got.startswith(start)
        assert got.isprintable()
    if reason in REMEDIES:
        assert remedy(found.faults).startswith(REMEDIES[reason])
    assert digests(folders) == before


def test_every_remedy_is_asked_for() -> None:
    """The table above names cases that there are."""
    assert REMEDIES.keys() <= CASES.keys()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", MERGE])
def test_pipes(file: str, damaged: Any) -> None:
    """What is no file is not waited for."""
    folder = damaged("one", remove(file))
    os.mkfifo(folder / file)
    assert said(folder)
    (folder / file).unlink()  # a pipe cannot be copied, nor its digest be had
