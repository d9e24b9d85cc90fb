"""Reports of inspections made by hand, for what is done with them."""

from mergekit_breadcrumbs.measure.report import (
    Counts,
    Cut,
    Histogram,
    Report,
    Squares,
    TaskVectorReport,
    TensorReport,
    Together,
)
from mergekit_breadcrumbs.measure.tensor_roles import role_of

NO_CHANGE = {"zero": 100, "squares": (0, 0, 0), "bins": (0, [], [], [])}
"""A task vector that is all zero."""


def vector(
    model,
    *,
    weight=0.5,
    density=0.9,
    gamma=0.02,
    zero=0,
    counts=(8, 90, 2),
    squares=(1, 70, 29),
    lower=(0.5, 0.5, 1, 1),
    upper=(4.0, 4.0, 1, 0),
    bins=(-8, [8, 0, 0], [0, 90, 0], [0, 0, 2]),
):
    """What becomes of one model's task vector of 100 elements."""
    names = ("small", "kept", "large")
    cuts = [
        cut and Cut(**dict(zip(Cut.model_fields, cut, strict=True)))
        for cut in (lower, upper)
    ]
    first, *fates = bins
    return TaskVectorReport(
        model=model,
        weight=weight,
        density=density,
        gamma=gamma,
        zero=zero,
        counts=Counts(**dict(zip(names, counts, strict=True))),
        squares=Squares(**dict(zip(names, squares, strict=True))),
        lower_cut=cuts[0],
        upper_cut=cuts[1],
        histogram=Histogram(first_bin=first, **dict(zip(names, fates, strict=True))),
    )


def tensor(name, *vectors, layer=None, absent=(), granularity="tensor", **numbers):
    """A tensor of 100 elements; its base's norm is 100."""
    return TensorReport(
        name=name,
        role=role_of(name),
        layer=layer,
        shape=[10, 10],
        dtype="bfloat16",
        granularity=granularity,
        elements=100,
        base_square=numbers.get("base_square", 10000),
        overlapping=numbers.get("overlapping", 40),
        opposed=numbers.get("opposed", 10),
        together=Together(**numbers.get("together", {"kept": 0, "large": 0})),
        vectors=list(vectors),
        absent=list(absent),
    )


def report(*tensors, models=("org/math", "org/code"), **keys):
    """A report on these tensors."""
    return Report(
        **{
            "merge_method": "breadcrumbs",
            "base_model": "org/base",
            "models": list(models),
            "layer_count": 2,
            "layers": None,
            "tensors": list(tensors),
            "unmerged": [],
            **keys,
        }
    )


def usual(*models, layers=2, **parts):
    """A report where nothing stands out: an embedding, and layers of two tensors."""
    models = models or ("org/math", "org/code")
    names = {"model.embed_tokens.weight": None}
    for layer in range(layers):
        names[f"model.layers.{layer}.self_attn.q_proj.weight"] = layer
        names[f"model.layers.{layer}.mlp.down_proj.weight"] = layer
    tensors = [
        tensor(name, *(vector(model, **parts) for model in models), layer=layer)
        for name, layer in names.items()
    ]
    return report(*tensors, models=models, layer_count=layers)
