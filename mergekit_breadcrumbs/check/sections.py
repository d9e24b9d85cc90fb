"""The one walk over a config: every mapping that holds models or parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from mergekit_breadcrumbs.check.problems import Place

Kind: TypeAlias = Literal["file", "module", "model", "output slice", "source"]

# What a section of each kind holds: under which key sections of which kind.
_HOLDS: dict[Kind, dict[str, Kind]] = {
    "file": {"models": "model", "slices": "output slice", "modules": "module"},
    "module": {"models": "model", "slices": "output slice"},
    "output slice": {"sources": "source"},
    "model": {},
    "source": {},
}


@dataclass(frozen=True)
class Section:
    """The file itself, a module, a model, a slice or one of its sources.

    `content` is the mapping as YAML has it, or the object that mergekit made of it;
    `around` is the section that it stands in.
    """

    kind: Kind
    place: Place
    content: Any
    around: Section | None = None

    def get(self, key: str) -> Any:
        """Return what stands under a key, None if nothing does."""
        if isinstance(self.content, dict):
            return self.content.get(key)
        return getattr(self.content, key, None)

    @property
    def levels(self) -> Iterator[Section]:
        """This section and those around it: where mergekit looks for parameters."""
        section: Section | None = self
        while section is not None:
            yield section
            section = section.around

    @property
    def base_model(self) -> Any:
        """The base model that applies here: the slice's own or else the file's."""
        own = (
            s.get("base_model")
            for s in self.levels
            if s.kind in ("output slice", "file")
        )
        return next((base for base in own if base is not None), None)

    @property
    def is_input(self) -> bool:
        """Whether it names a model to be merged."""
        return self.kind in ("model", "source")

    def inner(self) -> Iterator[Section]:
        """Yield the sections that stand directly in this one."""
        for key, kind in _HOLDS[self.kind].items():
            value = self.get(key)
            entries: Any = value.items() if isinstance(value, dict) else ()
            if isinstance(value, list):
                entries = enumerate(value)
            for step, content in entries:
                if isinstance(content, (dict, BaseModel)):
                    yield Section(kind, (*self.place, key, step), content, self)


def sections(config: Any) -> Iterator[Section]:
    """Yield every section of a config, each before what stands in it.

    A config is the mapping that YAML has, right or wrong, or mergekit's own object.

    Example:
        >>> data = {"slices": [{"sources": [{"model": "a"}, {"model": "b"}]}]}
        >>> [section.kind for section in sections(data)]
        ['file', 'output slice', 'source', 'source']
    """
    yield from _walk(Section("file", (), config))


def _walk(section: Section) -> Iterator[Section]:
    yield section
    for inner in section.inner():
        yield from _walk(inner)
