"""What this package relies on of mergekit beyond its documented interface.

This is the one list of it. A release of mergekit without one of the parts fails here,
with the part's name and what it is needed for, and not in the middle of a merge.
"""

import ast
import inspect
import pkgutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mergekit_breadcrumbs

HOST = Path(mergekit_breadcrumbs.__file__).parent / "host"


class Part(NamedTuple):
    """A part of mergekit, what it is needed for, and what it has to have.

    `names` are parameters or local variables of a function, attributes of a class, or
    pieces of text that a function is made of.
    """

    where: str
    needed_for: str
    names: tuple[str, ...] = ()


PARTS = [
    Part(
        "mergekit.merge_methods.registry:_METHODS",
        "putting our methods in the place of the built-ins, and taking away again what"
        " an inspection registers",
    ),
    Part(
        "mergekit.merge:_model_out_config",
        "the number of layers of a merged model that is made of slices",
    ),
    Part(
        "mergekit.merge_methods.base:ParameterSpec.validate",
        "errors that name the parameter: ours overrides it",
        ("value",),
    ),
    Part(
        "mergekit.parameter_resolver:resolve_parameter",
        "errors that name the model and the tensor: read from its local variables",
        ("model", "tensor_name"),
    ),
    Part(
        "mergekit.merge_methods.base:GroupMergeMethod._bind_group_parameters",
        "errors that name the tensor in library calls: read from a local variable",
        ("group",),
    ),
    Part(
        "mergekit.merge_methods.base:GroupMergeMethod._bind_per_input",
        "errors that name the model in library calls: read from a local variable",
        ("key",),
    ),
    Part(
        "mergekit.plan:MergePlanner.normalize_config",
        "one warning per merge: the label of a slice says that a merge begins, and the"
        " frame leads to the planner, which knows what gets lost",
        (".slices[", "]", "self"),
    ),
    Part(
        "mergekit.plan:MergePlanner.plan_to_disk",
        "errors where `out_dtype` is too small: the planner has the config",
        ("self", "config", "out_dtype"),
    ),
    Part(
        "mergekit.merge_methods.base:GroupMergeMethod._execute",
        "errors where `out_dtype` is too small: ours overrides it",
        ("groups", "parameters", "options", "input_dtypes", "out_dtype"),
    ),
    Part(
        "mergekit.plan:MergePlanner.plan_module",
        "checks: plans one module, and calls `plan_tensor` for each tensor",
        ("module_name", "definition", "plan_tensor"),
    ),
    Part(
        "mergekit.plan:MergePlanner.plan_tensor",
        "checks: what mergekit plans is recorded in its place",
        ("weight", "weights_in", "models", "cfg_reader"),
    ),
    Part(
        "mergekit.io.tasks:LoaderCache.loaders",
        "checks: planning without downloads and without merging adapters",
    ),
    Part(
        "mergekit.io.tasks:SaveTensor.model_fields",
        "verifications: each tensor as it would be written, cast, is handed over",
        ("tensor_name", "tensor_task", "writer_task", "dtype"),
    ),
    Part(
        "mergekit.io.tasks:SaveTensor.execute",
        "verifications: what takes a tensor in the writer's place",
        ("save_tensor", "tensor"),
    ),
    Part(
        "mergekit.merge:_update_config_vocab",
        "verifications: the size of the vocabulary in a merged model's config",
        ("config", "arch_info", "tokenizer", "pad_to_multiple_of"),
    ),
    Part(
        "mergekit.common:ModelPath._unique_id",
        "checks: where a model merged with its adapter is kept",
    ),
    Part(
        "mergekit.common:ModelReference.merged",
        "breadcrumb files: opened in the place of merging a LoRA adapter",
    ),
    Part(
        "mergekit.common:ModelReference.lazy_loader",
        "breadcrumb files: opened where mergekit asks for the names of tensors",
    ),
    Part(
        "mergekit.io.tasks:LoaderCache.get",
        "breadcrumb files: a model is merged with its adapter, then opened",
        ("model", "merged", "lazy_loader"),
    ),
    Part(
        "mergekit.plan:MergePlanner.plan_to_disk",
        "merges in memory: what takes the tensors stands in for the writer's task",
        ("TensorWriterTask", "out_path", "FinalizeModel"),
    ),
    Part(
        "mergekit.io.tasks:FinalizeModel.execute",
        "merges in memory: is called on what stands in for the writer",
        ("writer", "finalize"),
    ),
    Part(
        "mergekit.merge:run_merge",
        "merges in memory: opened models are kept in the cache from merge to merge",
        ("LoaderCache", "setup", "set_seed", "plan_to_disk", "write_model_card"),
    ),
    Part(
        "mergekit.tokenizer.build:build_tokenizer",
        "merges in memory: the one progress bar that `quiet` leaves is hidden",
        ("tqdm",),
    ),
    Part("mergekit:_data", "checks: the names of mergekit's chat templates"),
    Part(
        "mergekit.merge_methods.task_adapter:ExecuteMergeMethodTask.model_fields",
        "inspections: the tasks that merge, to be given another method",
        ("method_name", "model_order", "base_model", "output_weight"),
    ),
]


def missing(part: Part) -> list[str]:
    """Say what of a part is not there."""
    try:
        found: Any = pkgutil.resolve_name(part.where)
    except (ImportError, AttributeError) as error:
        return [f"{part.where} ({error})"]
    if isinstance(found, dict):
        known = set(found)
    elif inspect.isfunction(found):
        code = [found.__code__]
        # Before Python 3.12 a comprehension has code of its own.
        code += [c for c in found.__code__.co_consts if inspect.iscode(c)]
        known = {name for c in code for name in (*c.co_varnames, *c.co_names)}
        known |= {text for text in found.__code__.co_consts if isinstance(text, str)}
    else:
        known = set(dir(found))
    return [f"{name!r} in {part.where}" for name in part.names if name not in known]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.where)
def test_mergekit_has_it(part: Part) -> None:
    """The part is there; otherwise the message says which is gone, and who needs it."""
    gone = missing(part)
    assert not gone, f"this mergekit has no {', '.join(gone)}: {part.needed_for}"


@pytest.mark.parametrize(
    ("part", "gone"),
    [
        (Part("mergekit.nowhere:x", ""), "mergekit.nowhere"),
        (Part("mergekit.plan:MergePlanner.nothing", ""), "MergePlanner.nothing"),
        (PARTS[3]._replace(names=("nonsense",)), "'nonsense' in mergekit.param"),
        (PARTS[-1]._replace(names=("nonsense",)), "'nonsense' in mergekit.merge_m"),
    ],
)
def test_what_is_gone_is_named(part: Part, gone: str) -> None:
    """The test above can fail, for a module, an attribute, a variable and a field."""
    [message] = missing(part)
    assert gone in message


def test_the_list_is_complete() -> None:
    """Every private name of mergekit that `host/` uses is on the list."""
    listed = {
        name for part in PARTS for name in part.where.replace(":", ".").split(".")
    }
    used = set()
    for file in HOST.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(
                "mergekit."
            ):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) != "self":
                used.add(node.attr)
    private = {
        name for name in used if name.startswith("_") and not name.endswith("__")
    }
    private -= {"_getframe"}  # Python's own
    assert private
    assert private <= listed
