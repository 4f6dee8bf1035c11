"""Weights to start from: what fits is copied whole, what does not is refused in one line."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ecqx.coding.checkpoint import read_state
from ecqx.errors import InputError
from ecqx.models import MODELS, build
from ecqx.models.loading import load_weights
from ecqx.models.weights import _official_url, imagenet_weights

State = dict[str, Tensor]
HEADS = {
    "mlp_gsc": "13",
    "resnet20": "linear",
    "resnet56": "fc",
    "patch_transformer": "head",
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "squeezenet1_1": "classifier.1",
    "deeplabv3_mobilenet_v3_large": "classifier.4",
}


def fresh(name: str, num_classes: int, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, num_classes=num_classes)


@cache
def _trained(name: str) -> State:
    state = fresh(name, 6, seed=2).state_dict()
    generator = torch.Generator().manual_seed(3)
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        else:
            tensor.fill_(17)
    return state


def trained(name: str) -> State:
    """A state for 6 classes that no fresh network shares a value with."""
    return dict(_trained(name))


def values(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def refusal(model: nn.Module, state: State) -> str:
    """The line with which a state is refused; the model has not changed then."""
    before = values(model)
    with pytest.raises(InputError) as caught:
        load_weights(model, state, "start.pt")
    message = str(caught.value)
    assert message.startswith("start.pt does not fit the model: ")
    assert "\n" not in message
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    return message


# -- states that fit -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_every_tensor_is_copied(name: str) -> None:
    model = fresh(name, 6)
    assert load_weights(model, trained(name), "start.pt") == []
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained(name)[key]), key


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("num_classes", [1, 9])
def test_a_last_layer_for_other_classes_stays_random(name: str, num_classes: int) -> None:
    model = fresh(name, num_classes)
    before = values(model)
    left_out = load_weights(model, trained(name), "start.pt")
    assert left_out == [f"{HEADS[name]}.weight", f"{HEADS[name]}.bias"]
    for key, tensor in model.state_dict().items():
        expected = before if key in left_out else trained(name)
        assert torch.equal(tensor, expected[key]), key


def test_other_precisions() -> None:
    state = {name: tensor.half() for name, tensor in trained("resnet20").items()}
    model = fresh("resnet20", 6)
    load_weights(model, state, "start.pt")
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == trained("resnet20")[key].dtype
        assert torch.equal(tensor, state[key].to(tensor.dtype))


def test_the_state_is_copied_and_not_shared() -> None:
    state, model = trained("resnet20"), fresh("resnet20", 6)
    load_weights(model, state, "start.pt")
    with torch.no_grad():
        model.get_parameter("conv1.weight").zero_()
    assert float(state["conv1.weight"].abs().max()) > 0


def test_batch_counters_may_be_missing() -> None:
    state = {n: t for n, t in trained("resnet20").items() if "num_batches_tracked" not in n}
    model = fresh("resnet20", 6)
    assert load_weights(model, state, "start.pt") == []
    assert int(model.state_dict()["bn1.num_batches_tracked"]) == 0
    assert torch.equal(model.state_dict()["bn1.running_var"], state["bn1.running_var"])


def test_auxiliary_classifiers_are_passed_over_where_there_is_none() -> None:
    name = "deeplabv3_mobilenet_v3_large"
    torch.manual_seed(4)
    with_auxiliary = build(name, num_classes=6, aux_loss=True).state_dict()
    model = fresh(name, 6)
    assert load_weights(model, with_auxiliary, "start.pt") == []
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, with_auxiliary[key]), key
    second = build(name, num_classes=6, aux_loss=True)
    load_weights(second, with_auxiliary, "start.pt")
    assert torch.equal(
        second.state_dict()["aux_classifier.4.weight"], with_auxiliary["aux_classifier.4.weight"]
    )
    message = refusal(second, model.state_dict())
    assert "the model needs aux_classifier.0.weight, aux_classifier.1.weight" in message


def test_the_published_checkpoint(shared: Path) -> None:
    state = read_state(shared / "models" / "resnet20.pt")
    model = fresh("resnet20", 10)
    assert load_weights(model, state, "resnet20.pt") == []
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


# -- states that do not ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv1.weight", "layer2.0.bn1.running_mean", "linear.bias"])
@pytest.mark.parametrize("num_classes", [6, 9])
def test_missing_tensors(name: str, num_classes: int) -> None:
    state = trained("resnet20")
    del state[name]
    message = refusal(fresh("resnet20", num_classes), state)
    assert f"the model needs {name}, which it lacks" in message


def test_unknown_tensors() -> None:
    state = trained("resnet20") | {"extra.weight": torch.ones(2), "aux_classifer.w": torch.ones(1)}
    message = refusal(fresh("resnet20", 6), state)
    assert "it has extra.weight, aux_classifer.w, which the model does not know" in message


def test_shapes_that_differ() -> None:
    state = trained("resnet20") | {"layer3.0.conv1.weight": torch.ones(64, 32, 5, 5)}
    assert (
        "layer3.0.conv1.weight has shape [64, 32, 5, 5], where the model needs [64, 32, 3, 3]"
        in refusal(fresh("resnet20", 6), state)
    )
    # More classes are no excuse for a layer before the last one, nor for other inputs of it.
    state = trained("resnet20") | {"conv1.weight": torch.ones(20, 3, 3, 3)}
    assert "conv1.weight has shape" in refusal(fresh("resnet20", 9), state)
    state = trained("resnet20") | {"linear.weight": torch.ones(6, 63)}
    assert "linear.weight has shape [6, 63]" in refusal(fresh("resnet20", 6), state)
    state = trained("resnet20") | {"linear.weight": torch.ones(64)}
    assert "linear.weight has shape [64]" in refusal(fresh("resnet20", 6), state)


def test_the_state_of_another_network_names_a_few_on_each_side() -> None:
    message = refusal(fresh("resnet20", 10), trained("mobilenet_v2"))
    assert "the model needs conv1.weight, bn1.weight, bn1.bias and 94 more" in message
    assert "it has features.0.0.weight, features.0.1.weight, features.0.1.bias and " in message
    assert len(message) < 400
    assert "needs" in refusal(fresh("resnet20", 10), {})


# -- torchvision's weights -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MODELS, "resnet999", ""])
def test_networks_without_pretrained_weights(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^model {name}: there are no pre-trained weights") as e:
        imagenet_weights(name, tmp_path)
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


@dataclass
class Official:
    """A server of one file of weights, which takes the place of every network's official file."""

    file: Path
    requested: list[str]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Official]:
    folder = tmp_path / "official"
    folder.mkdir()
    torch.save({"w": torch.arange(6.0), "denselayer3.norm.2.bias": torch.ones(2)}, folder / "w")
    digest = hashlib.sha256((folder / "w").read_bytes()).hexdigest()
    file = (folder / "w").rename(folder / f"network_v2-{digest[:8]}.pth")
    requested = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{file.name}"
        weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=url))
        monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: weights)
        yield Official(file, requested)
        server.shutdown()


def test_official_weights_are_downloaded_once(official: Official, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for _ in range(2):
        state = imagenet_weights("resnet18", root)
        assert torch.equal(state["w"], torch.arange(6.0))
    assert official.requested == [f"/{official.file.name}"]
    assert (root / official.file.name).read_bytes() == official.file.read_bytes()


@pytest.mark.parametrize("place", [".", "models"])
def test_official_weights_of_a_local_folder(official: Official, tmp_path: Path, place: str) -> None:
    local = tmp_path / "data" / place / official.file.name
    local.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(official.file, local)
    assert torch.equal(imagenet_weights("resnet18", tmp_path / "data")["w"], torch.arange(6.0))
    assert official.requested == []


def test_what_is_downloaded_must_have_the_digest_of_its_name(
    official: Official, tmp_path: Path
) -> None:
    torch.save({"w": torch.zeros(6)}, official.file)
    with pytest.raises(InputError, match=re.escape(official.file.name)) as caught:
        imagenet_weights("resnet18", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / official.file.name).exists()


def test_layers_of_densenet_have_the_names_of_today(official: Official, tmp_path: Path) -> None:
    assert "denselayer3.norm2.bias" in imagenet_weights("densenet121", tmp_path / "data")
    today = build("densenet121").state_dict()
    assert any("denselayer3.norm2.bias" in name for name in today)


def test_every_official_file_carries_its_digest() -> None:
    """Of every network that can be built, so that each download can be checked."""
    import torchvision

    for name in set(torchvision.models.list_models()) - set(MODELS):
        assert re.search(r"[-_][0-9a-f]{8,}\.pth$", _official_url(name)), name
