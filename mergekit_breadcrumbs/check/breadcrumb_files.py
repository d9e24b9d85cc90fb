"""Breadcrumb files: whether they can be read, and whether the base is theirs."""

from __future__ import annotations

from contextlib import suppress

from mergekit.common import ModelReference
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.core.stored import WrongBaseError
from mergekit_breadcrumbs.files.reader import BreadcrumbFile, read_manifest
from mergekit_breadcrumbs.files.shards import DamagedFileError
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.references import base_of, index_of, require_base
from mergekit_breadcrumbs.host.weights import Weights, read_weights
from mergekit_breadcrumbs.wording import as_path, one_line, shortened, visible


def report_file_as_model(
    model: ModelReference, directory: str, place: Place, problems: Problems
) -> None:
    """Report a breadcrumb file that is written in the place of a model."""
    base = "BASE"
    with suppress(DamagedFileError):
        base = visible(read_manifest(directory).base.model)
    written = f"{as_path(base)}+{as_path(str(model.model))}"
    text = f"is a breadcrumb file, not a model: write {written}"
    problems.add(Code.FILE_AS_MODEL, place, text)


def read_file(
    model: ModelReference, folder: str, place: Place, problems: Problems
) -> BreadcrumbFile | None:
    """Open the file of a model, and report what is wrong with it."""
    try:
        return BreadcrumbFile(folder, added_to=str(base_of(model)))
    except DamagedFileError as error:
        problems.add(Code.DAMAGED_FILE, place, shortened(str(error), 400))
        return None


def weights_of(file: BreadcrumbFile) -> Weights:
    """Return what the model holds that a file and its base make."""
    weights = Weights(index_of(file))
    for name in file.names():
        dtype = str(file.dtype(name)).removeprefix("torch.")
        weights.add(name, file.shape(name), dtype)
    return weights


def check_base_of_file(
    file: BreadcrumbFile,
    directory: str,
    place: Place,
    options: MergeOptions,
    problems: Problems,
    *,
    here: bool,
) -> None:
    """Report a base that is not the one that a file was made from.

    Args:
        file: opened.
        directory: of the base.
        here: whether the base's weights are in it, and not only their headers.
    """
    base = read_weights(directory, options.lazy_unpickle)
    if base.fault or base.index is None:
        return  # said where the base itself is checked, or shown by the download
    text = _unlike(file, base)
    if not text and here:
        try:
            loader = LazyTensorLoader(base.index, options.lazy_unpickle)
            require_base(file, loader)
        except WrongBaseError as error:
            text = str(error)
        except ValueError as error:
            problems.add(Code.DAMAGED_FILE, place, shortened(str(error), 400))
            return
    if text:
        problems.add(Code.WRONG_BASE, place, shortened(text, 400))
    elif not here and _names_differ(file):
        problems.add(
            Code.BASE_NOT_COMPARED,
            place,
            f"the file was made from {one_line(file.manifest.base.model)}; whether"
            f" {file.added_to} is the same shows after the download",
        )


def _unlike(file: BreadcrumbFile, base: Weights) -> str:
    """Say which tensor of a base is missing, or has another shape."""
    for name, entry in file.manifest.tensors.items():
        shape = base.shapes.get(name)
        if shape is None or shape != entry.shape:
            how = "is missing" if shape is None else f"is {list(shape)}"
            return (
                f"{file.name} was made from another base:"
                f" {file.manifest.base.model}, not {file.added_to} (tensor {name}"
                f" {how} there)"
            )
    return ""


def _names_differ(file: BreadcrumbFile) -> bool:
    base = file.manifest.base
    parsed, _ = attempt(ModelReference.parse, file.added_to)
    return parsed is None or parsed.model.path != base.model
