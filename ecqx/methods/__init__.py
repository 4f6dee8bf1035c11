"""What a user would pick instead of ECQx, behind one interface, and ECQ's own family in it.

Each method is a small class of settings (`interface.Method`) that says how weights are held to a
form in training, if at all, and how the trained model becomes one real file and comes back from
it. docs/comparison.md tells where each comes from.
"""

from ecqx.methods.entropy_constrained import EntropyConstrained
from ecqx.methods.interface import Method
from ecqx.methods.lsq import LSQ
from ecqx.methods.nncodec_alone import NNCodec
from ecqx.methods.plain import Float16, Integer8
from ecqx.methods.pruning import Pruning
from ecqx.methods.torchao_weights import TorchaoWeights

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
