"""What a user would pick instead of ECQx, behind one interface, and ECQ's own family in it.

Each method is a small class of settings (`interface.Method`) that says how weights are held to a
form in training, if at all, and how the trained model becomes one real file and comes back from
it. docs/comparison.md tells where each comes from.
"""

from ecqx.baselines.entropy_constrained import EntropyConstrained
from ecqx.baselines.interface import Method
from ecqx.baselines.lsq import LSQ
from ecqx.baselines.nncodec_alone import NNCodec
from ecqx.baselines.plain import Float16, Integer8
from ecqx.baselines.pruning import Pruning
from ecqx.baselines.torchao_weights import TorchaoWeights

__all__ = [
    "LSQ",
    "EntropyConstrained",
    "Float16",
    "Integer8",
    "Method",
    "NNCodec",
    "Pruning",
    "TorchaoWeights",
]
