"""Operations without a rule, through which relevance passes as a plain gradient.

While relevance is measured, autograd's graph has one node for each call of a module or a function
with a rule. Its other nodes are what relevance passes as a gradient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

# Operations of autograd whose gradient keeps the sum of relevance: they rearrange elements, choose
# among them, or average them. An addition does for a single branch.
_KEEPING = frozenset(
    (
        *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Expand", "Repeat"),
        *("Transpose", "T", "Permute", "Flip", "Roll", "Rot90", "PixelShuffle", "PixelUnshuffle"),
        *("ChannelShuffle", "NativeChannelShuffle"),
        *("Select", "Slice", "Split", "SplitWithSizes", "Unbind", "Diagonal", "Unfold", "Im2Col"),
        *("Index", "IndexSelect", "Gather", "MaskedSelect", "MaskedFill", "Where", "AsStrided"),
        *("Cat", "Stack", "Clone", "Alias", "ToCopy", "CopySlices", "CopyBackwards"),
        *("ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D", "ReflectionPad3D"),
        *("ReplicationPad1D", "ReplicationPad2D", "ReplicationPad3D"),
        *("MaxPool2DWithIndices", "MaxPool3DWithIndices", "MkldnnMaxPool2D", "MkldnnMaxPool3D"),
        *("AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Max", "Min", "Amax", "Amin", "Maximum"),
        *("Minimum", "Topk", "Sort"),
        *("Mean", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"),
        *("MkldnnAdaptiveAvgPool2D", "UpsampleNearest1D", "UpsampleNearest2D"),
        *("UpsampleNearest3D", "UpsampleNearestExact1D", "UpsampleNearestExact2D"),
        *("UpsampleNearestExact3D", "UpsampleLinear1D", "UpsampleBilinear2D"),
        "UpsampleTrilinear3D",
    )
)
_ADDING = frozenset(("Add", "Sub"))
_RULED = frozenset(("_Attribution", "_Operation"))


class Passage:
    """What relevance passes as a gradient in one batch, by the modules whose code does it."""

    def __init__(self) -> None:
        self._owners: dict[Node, nn.Module] = {}

    def claim(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Forward hook of a module without a rule: what no module within it did, it did itself."""
        ends = set(_nodes([args, kwargs]))
        waiting = list(_nodes(output))
        while waiting:
            node = waiting.pop()
            if node not in ends:
                ends.add(node)
                self._owners.setdefault(node, module)
                waiting += _before(node)

    def names(self, logits: Tensor, left_out: tuple[type[nn.Module], ...]) -> tuple[str, ...]:
        """``GroupNorm`` or ``silu in Block``, sorted; modules of the types in ``left_out`` are not.

        A module without others in it is named by its type, an operation by the type that calls it.
        Afterwards the graph is released.
        """
        owners, self._owners = self._owners, {}
        leading = _leading_to_layers(logits)
        found = set()
        for node in leading:
            branches = [before for before in _before(node) if before in leading]
            operation = _operation(node)
            keeps = operation in _KEEPING or (operation in _ADDING and len(branches) == 1)
            owner = owners.get(node)
            if operation in _RULED or keeps or isinstance(owner, left_out):
                continue
            kind = "the network" if owner is None else type(owner).__name__
            is_whole = owner is not None and not any(True for _ in owner.children())
            found.add(kind if is_whole else f"{_snake_case(operation)} in {kind}")
        return tuple(sorted(found))


def carries_relevance(tensor: Tensor) -> bool:
    """Whether a module or a function with a rule lies before a tensor."""
    seen: set[Node] = set()
    waiting = list(_nodes(tensor))
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        if _operation(node) in _RULED:
            return True
        seen.add(node)
        waiting += _before(node)
    return False


def parameter_behind(tensor: Tensor) -> nn.Parameter | None:
    """The parameter that wants a gradient and whose elements, rearranged, a tensor has."""
    if tensor.grad_fn is None:
        return tensor if isinstance(tensor, nn.Parameter) and tensor.requires_grad else None
    node = tensor.grad_fn
    while _operation(node) in _KEEPING and len(_before(node)) == 1:
        (node,) = _before(node)
    found = getattr(node, "variable", None)
    return found if isinstance(found, nn.Parameter) else None


def _nodes(value: Any) -> Iterator[Node]:
    """The nodes of all tensors in a nested value."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value.grad_fn
    elif isinstance(value, dict):
        yield from _nodes(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)


def _before(node: Node) -> list[Node]:
    return [before for before, _ in node.next_functions if before is not None]


def _leading_to_layers(logits: Tensor) -> set[Node]:
    """The nodes between the logits and the modules with a rule, and the nodes of these."""
    order: list[Node] = []
    seen: set[Node] = set()
    waiting = [(node, False) for node in _nodes(logits)]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(before, False) for before in _before(node)]
    leading: set[Node] = set()
    # Each node comes after those before it.
    for node in order:
        if _operation(node) in _RULED or any(b in leading for b in _before(node)):
            leading.add(node)
    return leading


def _operation(node: Node) -> str:
    """``Silu`` of SiluBackward0."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def _snake_case(operation: str) -> str:
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", operation).lower()
