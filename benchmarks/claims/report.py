"""The tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from claims.arms import SPACES
from claims.bed import LARGE, Merge
from claims.course import (
    MAIN,
    SETTINGS,
    WIDE,
    Course,
    Plan,
    arms_in,
    counts_in,
    setting_merge,
    shape_key,
    tuning_key,
    with_settings,
)
from claims.encoder import RECIPES
from claims.results import (
    BREADCRUMBS,
    PLAIN,
    at_distance,
    base_keeps,
    best_scale,
    frozen,
    kept,
    lead,
    percent,
    verdicts,
)
from claims.run import Known

DISTANCES = (0.01, 0.02, 0.05, 0.1, 0.2)


def row(*cells: str) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield row(*heads)
    yield "|" + "---|" * len(heads)
    for cells in rows:
        yield row(*cells)
    yield ""


def of_recipe(found: list[Course], recipe: str) -> list[Course]:
    """Return the courses of a recipe."""
    return [course for course in found if course.group.recipe == recipe]


def markdown(found: list[Course], plan: Plan, known: Known) -> Iterator[str]:
    """Yield all lines, each section with what a reader needs to know about it."""
    yield "## Do the claims hold?\n"
    yield from _verdicts(found, plan, known)
    for recipe in RECIPES:
        own = of_recipe(found, recipe)
        numbers = sorted({len(course.tasks) for course in own})
        yield f"## {recipe}: tuned on four tasks, then frozen\n"
        yield (
            f"Test data, % of the experts' accuracy, means over {len(own)} orders of"
            f" {' or '.join(map(str, numbers))} tasks. The last columns are points"
            " ahead of task arithmetic ± the larger standard error, over tasks or"
            " orders.\n"
        )
        yield from _frozen(own, plan, known, MAIN)
        yield _against_ties(own, plan, known)
        yield "In the wide space:\n"
        yield from _frozen(own, plan, known, WIDE)
        yield "What tuning chose:\n"
        yield from _chosen(own, known)
    yield "## Settings that nobody has tuned\n"
    yield (
        "The first order of each recipe, test data, % of the experts' accuracy: with"
        " lambda 1, and in brackets with the best of"
        f" {', '.join(f'{scale:g}' for scale in plan.scales)}. Settings are density /"
        " gamma.\n"
    )
    for course in with_settings(found):
        yield from _untuned(course, plan, known)
    yield "All experts merged, by lambda:\n"
    for course in with_settings(found):
        yield from _by_scale(course, plan, known)
    yield (
        "All experts merged, by the norm of the summed change as a share of the base's,"
        " between the scales above on a straight line:\n"
    )
    for course in with_settings(found):
        yield from _by_distance(course, plan, known)
    yield "## Why\n"
    yield from _shapes(found, known)
    same = [v for k, v in known.items() if k.startswith("console") and not v["random"]]
    equal = sum(one["same"] for one in same)
    yield f"`mergekit-yaml` wrote the same tensors in {equal} of {len(same)} merges.\n"


def _verdicts(found: list[Course], plan: Plan, known: Known) -> Iterator[str]:
    own = [verdicts(of_recipe(found, recipe), plan, known) for recipe in RECIPES]
    rows = [
        [same[0].claim, *(f"{_yes(v.holds)}: {v.figures}" for v in same)]
        for same in zip(*own, strict=True)
    ]
    yield from table(["claim", *RECIPES], iter(rows))


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _frozen(own: list[Course], plan: Plan, known: Known, space: str) -> Iterator[str]:
    least = min(own, key=lambda course: len(course.tasks))
    columns = [*counts_in(space, least, plan)[:-1], 0]
    names = [str(n) if n else "all" for n in columns]
    rows = [_cells(own, known, arm, space, columns) for arm in arms_in(space)]
    base = [
        fmean(base_keeps(course, n or len(course.tasks), known) for course in own)
        for n in columns
    ]
    rows.append(["base, not merged", *(f"{100 * one:.1f}" for one in base)])
    rows[-1] += [""] * (len(columns))
    heads = ["method", *names, *(f"{name}, ahead" for name in names)]
    yield from table(heads, iter(rows))


def _against_ties(own: list[Course], plan: Plan, known: Known) -> str:
    least = min(own, key=lambda course: len(course.tasks))
    leads = []
    for n in [*counts_in(MAIN, least, plan)[:-1], 0]:
        ours, ties = (frozen(arm, known, n) for arm in (BREADCRUMBS[1], "TIES"))
        by = percent(lead(own, ours, ties, known))
        leads.append(f"{by} with {n or 'all'}")
    return f"Breadcrumbs by row, ahead of TIES: {', '.join(leads)}.\n"


def _cells(
    own: list[Course], known: Known, arm: str, space: str, columns: list[int]
) -> list[str]:
    means, leads = [], []
    for n in columns:
        merge, plain = (frozen(name, known, n, space) for name in (arm, PLAIN))
        means.append(f"{100 * fmean(kept(c, merge(c), known) for c in own):.1f}")
        leads.append("" if arm == PLAIN else percent(lead(own, merge, plain, known)))
    return [arm, *means, *leads]


def _chosen(own: list[Course], known: Known) -> Iterator[str]:
    spaces = [(space, arm) for space in SPACES for arm in arms_in(space)]
    rows = [
        [space, arm]
        + [_values(known[tuning_key(course, arm, space)]["values"]) for course in own]
        for space, arm in spaces
    ]
    heads = ["space", "method", *(f"order {course.order}" for course in own)]
    yield from table(heads, iter(rows))


def _values(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2g}" for name, value in values.items())


def _untuned(course: Course, plan: Plan, known: Known) -> Iterator[str]:
    numbers = [*(n for n in (4, 8, 16) if n in plan.counts), len(course.tasks)]

    def cell(setting: str, count: int) -> str:
        merge = setting_merge(course, setting, 1.0, count)
        best, scale = best_scale(course, setting, count, plan, known)
        own = kept(course, merge, known)
        return f"{100 * own:.1f} ({100 * best:.1f} at {scale:g})"

    rows = ([name, *(cell(name, n) for n in numbers)] for name in SETTINGS)
    heads = [f"{course.group.recipe}, experts merged", *map(str, numbers)]
    yield from table(heads, rows)


def _by_scale(course: Course, plan: Plan, known: Known) -> Iterator[str]:
    def merge(setting: str, scale: float) -> Merge:
        return setting_merge(course, setting, scale, len(course.tasks))

    rows = (
        [name]
        + [f"{100 * kept(course, merge(name, s), known):.1f}" for s in plan.scales]
        for name in SETTINGS
    )
    heads = [f"{course.group.recipe}, lambda", *(f"{s:g}" for s in plan.scales)]
    yield from table(heads, rows)


def _by_distance(course: Course, plan: Plan, known: Known) -> Iterator[str]:
    def cell(setting: str, distance: float) -> str:
        found = at_distance(course, setting, distance, plan, known)
        return "-" if found is None else f"{100 * found:.1f}"

    rows = ([name, *(cell(name, d) for d in DISTANCES)] for name in SETTINGS)
    heads = [f"{course.group.recipe}, relative norm", *(f"{d:g}" for d in DISTANCES)]
    yield from table(heads, rows)


def _shapes(found: list[Course], known: Known) -> Iterator[str]:
    yield (
        "The task vectors of all experts, averaged over them and over orders: the"
        " kurtosis (3 for a normal distribution), the share of the squared norm in the"
        f" largest {100 * LARGE:g} % of the elements, and the mean cosine between two"
        " experts, of these elements and of the rest.\n"
    )
    names = list(known[shape_key(found[0])])

    def cells(recipe: str) -> list[str]:
        own = [known[shape_key(course)] for course in of_recipe(found, recipe)]
        return [f"{fmean(one[name] for one in own):.3g}" for name in names]

    yield from table(
        ["recipe", *names], ([recipe, *cells(recipe)] for recipe in RECIPES)
    )
