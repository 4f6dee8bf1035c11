"""Networks that others published, measured again: reported beside measured.

Writes results/reported/networks.json, a record a network, and from it docs/reported.md. CIFAR-10
and the checkpoints are searched where the suites search them. EC2T's networks, whose convolutions
have three values, are coded without loss on the way, so that their accuracy is that of our file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ecqx.coding.bitstream import load, save
from ecqx.coding.checkpoint import read_state
from ecqx.coding.few_values import few_valued
from ecqx.coding.quantized import CodedState
from ecqx.data.tensors import Preparation, Split
from ecqx.experiment.jobs import run_all
from ecqx.files import write_text
from ecqx.models import networks
from ecqx.models.loading import load_weights
from ecqx.modules import weights_of
from ecqx.training.evaluation import evaluate
from stages.command import command, run_command_line
from stages.download import choose, data_roots, find_checkpoint
from stages.settings.data import Cifar
from stages.settings.tasks import Start

ROOTS = ("datasets", "../shared/data")
CIFAR = Cifar(name="cifar10", validation=5000, seed=0)
RECORDS, PAGE = Path("results/reported/networks.json"), Path("docs/reported.md")
# Mean and deviation of the colours of ImageNet, by which these networks were trained; the others
# take those of CIFAR-10 (`ecqx.data.cifar_archives`).
IMAGENET = Preparation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AKAMASTER = "akamaster/pytorch_resnet_cifar10, commit d5489e8"
EFFICIENT_CNNS = "d-becking/efficientCNNs, commit 750247d"

TEXT = """# Reported beside measured

Networks for CIFAR-10 that others published, and their test accuracy as it was reported and as this
suite measures it, on the official test images. `make reported` measures them again where the
checkpoints are; `make verify PART=reported` compares.

{table}

A dash: nothing was reported, or it does not apply. Sparsity is the share of zeros among the weights
of convolutions and linear layers. The size is that of our file, which holds all values without
loss; in 32 bit ResNet20 has {fp32:,} bytes. The three networks of EC2T have three values in each
convolution; their first and last layers are in full precision.

`resnet20.pt` has the weights of `resnet20-12fca82f.th`, bit for bit. Its images are normalized by
the mean and deviation of CIFAR-10 instead of ImageNet's.
"""


@dataclass(frozen=True)
class Published:
    """A published network.

    ``accuracy`` is the reported test accuracy in percent, to two decimals; None where there is
    none. ``is_coded`` marks a network whose weights have few values.
    """

    file: str
    model: str
    normalization: str
    accuracy: float | None
    source: str
    is_coded: bool = False


PUBLISHED = (
    Published("resnet20-12fca82f.th", "resnet20", "ImageNet", 91.73, AKAMASTER),
    Published("resnet32-d509ac18.th", "resnet32", "ImageNet", 92.63, AKAMASTER),
    Published("resnet44-014dd654.th", "resnet44", "ImageNet", 93.10, AKAMASTER),
    Published("resnet56-4bfd9763.th", "resnet56_basic", "ImageNet", 93.39, AKAMASTER),
    Published("resnet20.pt", "resnet20", "CIFAR-10", None, "d-becking/ECQx"),
    Published("resnet20_ec2t_spars45.pt", "resnet20", "CIFAR-10", None, EFFICIENT_CNNS, True),
    Published("resnet20_ec2t_spars64.pt", "resnet20", "CIFAR-10", 91.01, EFFICIENT_CNNS, True),
    Published("resnet20_ec2t_spars73.pt", "resnet20", "CIFAR-10", None, EFFICIENT_CNNS, True),
)


@command
def main() -> None:
    """Measure the networks and write the records and the page."""
    records = run_all(measure, PUBLISHED, "reported")
    write_text(RECORDS, json.dumps(records, indent=1) + "\n")
    write_text(PAGE, page_of(records))


def measure(published: Published) -> dict[str, Any]:
    """The record of a network: what was reported, and the same measured."""
    roots = data_roots(ROOTS)
    path = find_checkpoint(Start(checkpoint=published.file), roots)
    assert path is not None
    model, state = networks.build(published.model, num_classes=10), read_state(path)
    load_weights(model, state, published.file)
    size = sparsity = None
    if published.is_coded:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.ecqx"
            size = save(file, CodedState(dict(state), few_valued(state))).total
            model.load_state_dict(load(file))
        weights = [weight.detach() for _, weight in weights_of(model)]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        sparsity = zeros / sum(weight.numel() for weight in weights)
    accuracy = evaluate(model, _test_split(published.normalization, roots))
    return {
        **asdict(published),
        "measured": round(100 * accuracy, 2),
        "sparsity": sparsity,
        "bytes": size,
    }


def _test_split(normalization: str, roots: Sequence[Path]) -> Split:
    chosen, root = choose([CIFAR], roots)
    test = chosen.build(root, processes=1).test
    return replace(test, preparation=IMAGENET) if normalization == "ImageNet" else test


def page_of(records: Sequence[dict[str, Any]]) -> str:
    """The page of the records."""
    rows = [
        {
            "network": f"{record['model'].removesuffix('_basic')}, `{record['file']}`",
            "normalization": record["normalization"],
            "reported (%)": _number(record["accuracy"], 2),
            "measured (%)": _number(record["measured"], 2),
            "sparsity (%)": _number(record["sparsity"], 1, 100),
            "our file (bytes)": f"{record['bytes']:,}" if record["bytes"] else "–",
            "source": record["source"],
        }
        for record in records
    ]
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    state = networks.build("resnet20").state_dict()
    fp32 = 4 * sum(t.numel() for t in state.values() if t.is_floating_point())
    return TEXT.format(table=table, fp32=fp32)


def _number(value: float | None, digits: int, scale: float = 1) -> str:
    return "–" if value is None else f"{scale * value:.{digits}f}"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
