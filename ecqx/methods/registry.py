"""All methods by name, with the place of each: a module is imported when its method is used."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "ECQ": "ecqx.methods.entropy_constrained:EntropyConstrained",
    "ECQx": "ecqx.methods.entropy_constrained:EntropyConstrained",
    "EC2T": "ecqx.methods.entropy_constrained:EntropyConstrained",
    "EC2Tx": "ecqx.methods.entropy_constrained:EntropyConstrained",
    "FantastIC4": "ecqx.methods.entropy_constrained:EntropyConstrained",
    "FantastIC4x": "ecqx.methods.entropy_constrained:EntropyConstrained",
    "NNCodec uniform": "ecqx.methods.nncodec_alone:NNCodec",
    "NNCodec dependent": "ecqx.methods.nncodec_alone:NNCodec",
    "pruning": "ecqx.methods.pruning:Pruning",
    "LSQ": "ecqx.methods.lsq:LSQ",
    "torchao": "ecqx.methods.torchao_weights:TorchaoWeights",
    "fp16": "ecqx.methods.plain:Float16",
    "int8": "ecqx.methods.plain:Integer8",
}
