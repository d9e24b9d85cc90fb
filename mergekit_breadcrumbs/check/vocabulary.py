"""Whether each token of the merged model gets a row in the embeddings, and from where.

mergekit looks for the rows when it merges, and stops where it finds none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mergekit.architecture import WeightInfo
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.tokenizer.config import ModelTokenEmbedding, ZeroEmbedding

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.tokenizer_source import token_settings
from mergekit_breadcrumbs.check.vocabularies import Vocabularies
from mergekit_breadcrumbs.check.vocabulary_size import check_length, padded
from mergekit_breadcrumbs.wording import counted, listed, one_line

Rows = dict[ModelReference, int]


def check_vocabulary(
    config: MergeConfiguration,
    vocabularies: Vocabularies,
    models: Mapping[ModelReference, ModelFiles],
    outputs: list[OutputSlice],
    problems: Problems,
) -> None:
    """Report tokens without a row, and rows without a token."""
    padding = config.tokenizer and config.tokenizer.pad_to_multiple_of
    if padding is not None and padding < 0:
        text = f"must be a positive number; got {padding}"
        place = ("tokenizer", "pad_to_multiple_of")
        problems.add(Code.WRONG_PADDING, place, text)
        return
    length = padded(len(vocabularies.out), padding)
    last = max(vocabularies.out.values(), default=-1)
    if last >= len(vocabularies.out):
        text = (
            f"its {len(vocabularies.out)} tokens have ids up to {last}, with gaps:"
            " mergekit makes a row for each token, and the last ids get none"
        )
        problems.add(Code.UNFIT_VOCABULARY, vocabularies.place, text)
        return
    settings = token_settings(config)
    seen: list[tuple[Rows, Any]] = []
    for output in outputs:
        for tensor in output.tensors:
            rows = _rows(tensor.inputs, models)
            if rows and (rows, output.base) not in seen:
                seen.append((rows, output.base))
                tokens = _Tokens(vocabularies, rows, models, problems)
                if tokens.have_rows():
                    tokens.check_settings(settings)
                    tokens.check_unknown(settings)
                if output.base in rows:
                    sizes = len(vocabularies.out), length, rows[output.base]
                    check_length(*sizes, config, problems)


def _rows(
    inputs: Mapping[ModelReference, WeightInfo],
    models: Mapping[ModelReference, ModelFiles],
) -> Rows:
    """Return how many rows each model has that has the tensor at all."""
    found = {}
    for model, weight in inputs.items():
        shapes = models[model].weights.shapes if model in models else {}
        names = (weight.name, *(weight.aliases or ()), *(weight.tied_names or ()))
        shape = next((shapes[name] for name in names if name in shapes), ())
        axis = weight.vocabulary_axis
        if axis is not None and axis < len(shape):
            found[model] = shape[axis]
    return found


class _Tokens:
    """The tokens of one tensor, and the rows that the models have for them."""

    def __init__(
        self,
        vocabularies: Vocabularies,
        rows: Rows,
        models: Mapping[ModelReference, ModelFiles],
        problems: Problems,
    ) -> None:
        self._vocabularies, self._rows = vocabularies, rows
        self._models, self._problems = models, problems
        self._row = {model: vocabularies.row_of_each(model) for model in rows}

    def have_rows(self) -> bool:
        """Whether mergekit finds a row wherever it looks for one."""
        found = [self._has_rows(model) for model in self._rows]
        return all(found)

    def _has_rows(self, model: ModelReference) -> bool:
        rows = self._row[model]
        size, there = self._vocabularies.rows[model], self._rows[model]
        homeless = [token for token, row in rows.items() if row is None]
        why = f"its vocab_size is {size}"
        if not homeless:
            homeless = [
                t for t, row in rows.items() if row is not None and row >= there
            ]
            why = f"its embeddings have {there} rows"
        added = self._vocabularies.added.intersection(homeless)
        for token in added:
            text = (
                "cannot be added with source: base, for the base has no spare row for"
                " it: write source: union"
            )
            place = ("tokenizer", "tokens", token)
            self._problems.add(Code.TOKEN_WITHOUT_SOURCE, place, text)
        homeless = [token for token in homeless if token not in added]
        if homeless:
            assumed = model in self._vocabularies.assumed
            whose = "the base's" if assumed else "its own"
            text = (
                f"has no row for {_named(homeless)} of the merged model's tokenizer,"
                f" which {whose} tokenizer has: {why}"
            )
            place = self._models[model].place
            self._problems.add(Code.UNFIT_VOCABULARY, place, text)
        return not homeless and not added

    def check_unknown(self, settings: Mapping[str, Any]) -> None:
        """Warn of tokens that no model of the merge has."""
        known = {
            token
            for rows in self._row.values()
            for token, row in rows.items()
            if row is not None and row >= 0
        }
        known |= settings.keys()
        unknown = [token for token in self._vocabularies.out if token not in known]
        if unknown:
            text = (
                f"{_named(unknown)} of this tokenizer, but of no model in the merge:"
                " the rows are all zeros"
            )
            place = self._vocabularies.place
            self._problems.add(Code.TOKENS_WITHOUT_ROW, place, text)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Report what `tokens` cannot get or does not do."""
        for token, setting in settings.items():
            place = ("tokenizer", "tokens", token)
            if token not in self._vocabularies.out:
                text = "has no effect: this is no token that can be added"
                self._problems.add(Code.IDLE_TOKEN, place, text)
                continue
            have = list(self._having(token))
            if all(have) and not setting.force:
                text = "has no effect: all models have this token; force: true replaces"
                self._problems.add(Code.IDLE_TOKEN, place, f"{text} its rows")
            elif fault := self._why_no_row(token, setting.source):
                self._problems.add(Code.TOKEN_WITHOUT_SOURCE, place, fault)
            elif token in self._vocabularies.added and any(have) and not setting.force:
                text = (
                    "the base takes one of its spare rows for this token, whatever the"
                    " source is; force: true gives the source's to all models"
                )
                self._problems.add(Code.IDLE_TOKEN, place, text)

    def _having(self, token: str) -> Iterator[bool]:
        for rows in self._row.values():
            row = rows[token]
            yield row is not None and row >= 0

    def _why_no_row(self, token: str, source: Any) -> str:
        """Return why mergekit would stop at a token, empty if it would not."""
        if isinstance(source, ZeroEmbedding):
            return ""
        if source is None:
            return "source is missing: write {kind: zero}, or a model that has it"
        model = source.model if isinstance(source, ModelTokenEmbedding) else source
        if model not in self._rows:
            hint = "; for zeros write source: {kind: zero}"
            hint = hint if str(model) == "zero" else ""
            where = "the slice that gives this tensor"
            where = "the merge" if model not in self._vocabularies.own else where
            return f"its source {one_line(str(model))} is no model of {where}{hint}"
        if isinstance(source, ModelTokenEmbedding) and source.token_id is not None:
            if 0 <= source.token_id < self._rows[model]:
                return ""
            last = self._rows[model] - 1
            return f"token_id must be in [0, {last}] for {model}; got {source.token_id}"
        own = isinstance(source, ModelTokenEmbedding)
        wanted = source.token if own else token
        if own and model in self._vocabularies.assumed:
            return f"{model} has no tokenizer in which to look up {wanted!r}"
        if own:
            lacking = wanted not in self._vocabularies.own[model]
        else:
            lacking = (self._row[model][token] or 0) < 0
        return f"{model} has no token {wanted!r}" if lacking else ""


def _named(tokens: list[str]) -> str:
    return f"{counted(len(tokens), 'token')} ({listed([repr(t) for t in tokens])})"
