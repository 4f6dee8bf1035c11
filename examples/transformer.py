"""A transformer, quantized by ECQ and by ECQx.

    python examples/transformer.py

reads each of scikit-learn's digits row by row, as eight words of eight pixels. ECQ asks nothing of
a network and quantizes the weights of all its layers. ECQx asks for the relevance of each: the
matrices of PyTorch's attention, LayerNorm, softmax and the additions around them have rules, of
which the composite `attnlrp` suits transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import ecqx
from ecqx.data import TensorData, digits
from ecqx.training.evaluation import evaluate
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer


class RowTransformer(nn.Module):
    """Transformer encoder over the rows of an image."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(8, width) / 10)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x.squeeze(1)) + self.positions
        logits: Tensor = self.head(self.encoder(rows).mean(1))
        return logits


def quantize(
    trained: RowTransformer, data: TensorData, options: argparse.Namespace, **settings: object
) -> ecqx.ECQx:
    """Quantized training of a copy of the network."""
    model = RowTransformer()
    model.load_state_dict(trained.state_dict())
    quantizer = ecqx.ECQx(model, bits=options.bits, lam=options.lam, **settings)  # type: ignore[arg-type]
    fit = FitSettings(epochs=options.epochs, lr=1e-3)
    Trainer(model, data.train, data.validation, fit, quantizer=quantizer).fit()
    return quantizer


def draw(quantizer: ecqx.ECQx, path: Path) -> None:
    """Heat maps of the matrices of queries, keys and values in each block, largest value one."""
    import altair as alt

    relevance = quantizer.relevance.values if quantizer.relevance else {}
    parameters = dict(quantizer.model.named_parameters())
    panels = []
    for block, name in enumerate(name for name in quantizer.weights if "in_proj" in name):
        for quantity, values in (("magnitude", parameters[name]), ("relevance", relevance[name])):
            shares = (values.detach().abs() / values.detach().abs().max()).tolist()
            parts = ("query", "key", "value")
            cells = [
                {"row": i, "column": j, "part": parts[3 * i // len(shares)], "value": share}
                for i, row in enumerate(shares)
                for j, share in enumerate(row)
            ]
            scale = alt.Scale(scheme="viridis", type="sqrt")
            color = alt.Color("value:Q", scale=scale, title="of the largest")
            matrix = (
                alt.Chart(width=256, height=128)
                .mark_rect()
                .encode(alt.X("column:O", axis=None), alt.Y("row:O", axis=None), color)
            )
            row = alt.Row("part:N", sort=parts, title=None)
            title = f"{quantity}, block {block + 1}"
            panel = matrix.facet(row=row, data={"values": cells}, title=title)
            panels.append(panel.resolve_scale(y="independent"))
    alt.concat(*panels, columns=4).save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5, help="of each of the trainings")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--lam", type=float, default=0.02, help="higher is sparser")
    parser.add_argument("--figure", type=Path, help="a .png, .svg or .html")
    parser.add_argument("--output", type=Path, default=Path("transformer.ecqx"))
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    data = digits()
    model = RowTransformer()
    fit = FitSettings(epochs=2 * options.epochs, lr=3e-3)
    Trainer(model, data.train, data.validation, fit).fit()
    print(f"full precision: {evaluate(model, data.test):.1%}")

    # The positions are no weights of a layer: they stay as they are, without `exclude`, too.
    by_ecq = quantize(model, data, options, exclude=["positions"])
    print(by_ecq.summary())
    size = ecqx.save(options.output, by_ecq)
    print(f"ECQ: {evaluate(by_ecq.model, data.test):.1%}, {size.total:,} bytes")

    relevance = ecqx.LRP(composite="attnlrp")
    by_ecqx = quantize(model, data, options, exclude=["positions"], relevance=relevance)
    print(f"ECQx: {evaluate(by_ecqx.model, data.test):.1%}")
    if options.figure:
        draw(by_ecqx, options.figure)


if __name__ == "__main__":
    main()
