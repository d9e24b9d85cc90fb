"""What a merge takes beside its inputs, on a tensor of 100 million elements."""

import json
import sys

import pytest
import torch
from support.repository import run

pytestmark = pytest.mark.slow

ELEMENTS = 100_000_000
MIB = 1 << 20

# Run by itself, so that the process's own high-water mark is that of the merge.
SCRIPT = """
import json, sys
import torch
from mergekit_breadcrumbs import merge_task_vectors

options = json.loads(sys.argv[1])
dtype, hoard = getattr(torch, options.pop("dtype")), options.pop("hoard", False)
torch.set_num_threads(options.pop("threads", 2))

def high_water():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) * 1024

def weights(seed):
    # Filled piece by piece: making it must not take more than it is.
    tensor = torch.empty(20_000, 5_000, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    for rows in tensor.split(200):
        rows.copy_(torch.randn(rows.shape, generator=generator))
    return tensor

base, tuned = weights(0), [weights(1), weights(2)]
count = len(tuned)
given = {"weight": [0.5] * count, "density": [0.9] * count, "gamma": [0.01] * count}
# The first use of each operation takes memory once.
merge_task_vectors(base[:20], [t[:20] for t in tuned], **given, **options)
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # the high-water mark starts again from here
before = high_water()
merged = merge_task_vectors(base, tuned, **given, **options)
copies = [t - base for t in tuned] if hoard else []
print(json.dumps({"extra": high_water() - before, "output": merged.nbytes}))
"""


def _measure(**options):
    done = run(sys.executable, "-c", SCRIPT, json.dumps(options))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's high-water mark")
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "elect_sign": True, "rescale": True, "normalize": True},
        {"dtype": "bfloat16", "granularity": "row"},
        {"dtype": "float32"},
        {"dtype": "float32", "threads": 12},
        {"dtype": "float64"},
        {"dtype": "float64", "granularity": "row", "threads": 12},
        {"dtype": "bfloat16", "elect_sign": True, "threads": 12},
    ],
    ids=[
        *("bfloat16", "ties, rescale", "row", "float32", "threads", "float64"),
        *("float64 by row, threads", "ties, threads"),
    ],
)
def test_extra_memory_is_the_output_and_64_mib(options):
    """No full-size task vector, mask or index is ever made."""
    used = _measure(**options)
    assert used["output"] == ELEMENTS * getattr(torch, options["dtype"]).itemsize
    assert used["extra"] <= used["output"] + 64 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's high-water mark")
def test_the_measurement_sees_a_full_size_task_vector():
    """The limit can be broken: two task vectors kept around do."""
    used = _measure(dtype="bfloat16", hoard=True)
    assert used["extra"] > used["output"] + 64 * MIB
