"""What the check says of every example.

Apart from test_run.py, where no tensor can be read: the stand-ins are made here.
"""

from pathlib import Path

import pytest
import yaml
from support.checked_configs import said
from support.examples import EXAMPLES, Example, with_references
from support.stand_ins import StandIns


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand_ins"))


NOT_ONE_MERGE = {
    "raw_pytorch": "configs that name weight files are for mergekit-pytorch",
    "two_stage": "more than one document: this is a config for mergekit-multi",
}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples(file: Path, stand_ins: StandIns, tmp_path: Path) -> None:
    """Every example has no problem, or says which command it is for."""
    documents = Example(file).documents
    if len(documents) == 1:
        documents = [with_references(documents[0], stand_ins.reference)]
    text = yaml.safe_dump_all(documents)
    problems = said(text, lora_merge_cache=str(tmp_path))
    if file.stem in NOT_ONE_MERGE:
        assert problems
        assert all(NOT_ONE_MERGE[file.stem] in problem for problem in problems)
    else:
        assert problems == []
