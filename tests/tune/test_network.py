"""A network in torch computes what the runtimes compute, and its gradients are those of what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import EngineError, EngineMissingError, ModelError, PlanError
from surgery.model import Model
from surgery.runtime import Array, Inputs, Job
from surgery.tune import installed
from surgery.verify import random_inputs
from tests.conformance.test_golden_onnx import CLOSE, distance
from tests.conformance.test_targets import FOLDERS, pairs
from tests.engines import require_onnxruntime
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.onnx_nets import filled, node, pictures, tiny
from tests.runtime.golden import Golden, golden_cases
from tests.tune.extra import require_torch

require_torch()

import torch  # noqa: E402

from surgery.tune.network import Network  # noqa: E402

# Some small, some deep, with branches, shuffles and concatenations; the larger ones have no operator beyond these.
LIGHT = ("densenet121", "inception_v1", "resnet50", "shufflenet", "squeezenet")

CONV = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
"""
BN = """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
"""
HEAD = """
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
BLOBS = {"conv": conv_blobs(4, 3, 3, 3), "fc": dense_blobs(5, 64)}
STATISTICS = [np.full(4, 0.5, np.float32), np.full(4, 3.0, np.float32), np.full(1, 2.0, np.float32)]
AFFINE = [np.full(4, 1.5, np.float32), np.full(4, 0.25, np.float32)]


def fed(inputs: Mapping[str, Array], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value, np.float64)).to(dtype) for name, value in inputs.items()}


def computed(network: Network, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with torch.no_grad():
        return {name: value.numpy() for name, value in network(fed(inputs)).items()}


def in_onnxruntime(path: Path, inputs: Inputs) -> dict[str, Array]:
    (result,) = require_onnxruntime().run_jobs([Job([path], [inputs])])
    assert not isinstance(result, EngineError), result
    return result[0]


def small(folder: Path, text: str = CONV + HEAD, **more: list[Array]) -> Model:
    return formats.load(write_net(folder, text, {**BLOBS, **more}))


def batch(seed: int, size: int = 2) -> dict[str, Array]:
    return {"data": np.random.default_rng(seed).standard_normal((size, 3, 6, 6)).astype(np.float32)}


def test_every_reference_case_computes_what_caffe_computed() -> None:
    failed, cases = {}, golden_cases()
    for case in cases:
        found = computed(Network.of(loaded(case)), case.job.inputs[0])
        errors = {name: distance(found[name], value) for name, value in case.expected.items()}
        failed |= {case.name: errors} if max(errors.values()) > CLOSE else {}
    assert failed == {}
    assert len(cases) > 300


def loaded(case: Golden) -> Model:
    return formats.load(case.job.files, stages=case.job.stages)


def test_networks_of_the_zoo_compute_what_their_onnx_files_compute_at_every_blob(tmp_path: Path) -> None:
    """One of each kind, but for the detector, whose end picks boxes by operators that have no gradient."""
    models = {name: formats.load(pairs()[name][0]) for name in FOLDERS if name != "wechat_qrcode"}
    jobs, tensors = [], []
    for name, model in models.items():
        conversion = to_onnx(model, all_blobs=True)
        conversion.save(tmp_path / f"{name}.onnx")
        jobs.append(Job([tmp_path / f"{name}.onnx"], random_inputs(model.format.runnable(model).inputs, seed=1)[:1]))
        tensors.append(conversion.tensors)
    results = require_onnxruntime().run_jobs(jobs)
    compared = 0
    for (name, model), job, table, result in zip(models.items(), jobs, tensors, results, strict=True):
        assert not isinstance(result, EngineError), (name, result)
        blobs = {blob: tensor for blob, tensor in table.items() if tensor in result[0]}
        network = Network.of(model)
        network.ask(blobs)
        found = computed(network, job.inputs[0])
        errors = {blob: distance(found[blob], result[0][tensor]) for blob, tensor in blobs.items()}
        assert max(errors.values()) <= CLOSE, (name, errors)
        compared += len(errors)
    assert compared > 150


@pytest.mark.parametrize("name", LIGHT)
def test_light_networks_compute_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    path = filled(name, tmp_path)
    network = Network.of(formats.load([path]))
    inputs = {network.inputs[0]: pictures(1)}
    found, expected = computed(network, inputs), in_onnxruntime(path, inputs)
    assert {output: distance(found[output], expected[output]) <= CLOSE for output in expected} == dict.fromkeys(
        expected, True
    )
    assert network.batch is None  # Though the files say 1.


def test_gradients_are_the_slopes_of_what_is_computed() -> None:
    """By every blob of every reference case that has any, along a random direction."""
    failed, tried = {}, 0
    for number, case in enumerate(golden_cases()):
        network = Network.of(loaded(case), dtype=torch.float64)
        inputs = fed(case.job.inputs[0], torch.float64)
        for name, parameter in network.named_parameters():
            tried += 1
            slope, expected = slopes(network, inputs, name, parameter, number)
            # Second differences of float64 leave about 1e-16 / STEP; kinks between the two points are not hit here.
            if not abs(slope - expected) <= 1e-5 * max(1.0, abs(expected)):
                failed[case.name, name] = slope, expected
    assert failed == {}
    assert tried > 150


STEP = 1e-6


def slopes(
    network: Network, inputs: dict[str, torch.Tensor], name: str, parameter: torch.nn.Parameter, seed: int
) -> tuple[float, float]:
    """The derivative of a random sum of the outputs along a random direction, by torch and by central differences."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    weights: dict[str, torch.Tensor] = {}

    def objective(values: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for output, value in network(inputs, {name: values}).items():
            if output not in weights:
                weights[output] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            total = total + (weights[output] * value.nan_to_num(0, 0, 0)).sum()
        return total

    values = parameter.detach().clone().requires_grad_()
    total = objective(values)
    (gradient,) = torch.autograd.grad(total, values) if total.requires_grad else (torch.zeros_like(values),)
    with torch.no_grad():
        higher, lower = objective(values + STEP * direction), objective(values - STEP * direction)
    return float((gradient * direction).sum()), float((higher - lower) / (2 * STEP))


def test_logits_are_what_the_last_softmax_reads(tmp_path: Path) -> None:
    network = Network.of(small(tmp_path))
    assert network.logits == "fc"
    network.ask(["fc", "prob"])
    found = network(fed(batch(0)))
    torch.testing.assert_close(found["fc"].softmax(1), found["prob"])


def test_a_network_without_softmax_has_no_logits(tmp_path: Path) -> None:
    assert Network.of(small(tmp_path, CONV)).logits is None


def test_a_layer_makes_what_it_makes_before_others_work_on_it_in_place(tmp_path: Path) -> None:
    network = Network.of(small(tmp_path))
    (before,), (behind,) = network.made_by("conv"), network.made_by("relu")
    network.ask([before, behind, "conv"])
    found = network(fed(batch(0)))
    assert found[before].min() < 0
    torch.testing.assert_close(found[before].relu(), found[behind], rtol=0, atol=0)
    torch.testing.assert_close(found["conv"], found[behind], rtol=0, atol=0)
    with pytest.raises(ModelError, match="'nothing': no layer of that name"):
        network.made_by("nothing")


def test_what_is_not_needed_for_the_blobs_asked_for_is_not_computed(tmp_path: Path) -> None:
    text = CONV + (
        'layer { name: "more" type: "Input" top: "more" input_param { shape { dim: 2 dim: 4 dim: 4 dim: 4 } } }\n'
        'layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "more" top: "sum" }\n'
    )
    network = Network.of(small(tmp_path, text))
    with pytest.raises(ModelError, match="input 'more' is not fed"):
        network(fed(batch(0)))
    network.ask(["conv"])
    assert list(network(fed(batch(0)))) == ["conv"]
    with pytest.raises(ModelError, match="makes no blob 'conf'"):
        network.ask(["conf"])


def test_only_layers_that_are_named_get_gradients(tmp_path: Path) -> None:
    network = Network.of(small(tmp_path), ["fc"])
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert trained == {"conv/0": False, "conv/1": False, "fc/0": True, "fc/1": True}
    assert [tuple(parameter.shape) for parameter in network.parameters()] == [(4, 3, 3, 3), (4,), (5, 64), (5,)]


def test_a_layer_that_is_not_there_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="fc9: the network has no layer of that name"):
        Network.of(small(tmp_path), ["fc9"])


def test_numbers_in_the_place_of_a_parameter_get_its_gradient(tmp_path: Path) -> None:
    network = Network.of(small(tmp_path))
    own = dict(network.named_parameters())["fc/0"]
    network.ask(["fc"])
    latent = own.detach().clone().requires_grad_()
    network(fed(batch(0)), {"fc/0": latent})["fc"].square().sum().backward()
    assert own.grad is None
    network(fed(batch(0)))["fc"].square().sum().backward()
    torch.testing.assert_close(latent.grad, own.grad)


SHARED = (
    CONV.replace('top: "conv" conv', 'top: "conv" param { name: "w" } conv')
    + 'layer { name: "twin" type: "Convolution" bottom: "data" top: "twin" param { name: "w" }'
    " convolution_param { num_output: 4 kernel_size: 3 } }\n"
)


def test_blobs_of_two_layers_are_not_trained_and_the_reason_is_told(tmp_path: Path) -> None:
    model = small(tmp_path, SHARED, twin=conv_blobs(4, 3, 3, 3))
    network = Network.of(model)
    assert {refusal.key: refusal.reason for refusal in network.refused} == {
        "conv": "its weights are shared with 'twin'",
        "twin": "its weights are shared with 'conv'",
    }
    assert "conv/0" not in dict(network.named_parameters())
    with pytest.raises(PlanError, match="twin: cannot be trained: its weights are shared with 'conv'"):
        Network.of(model, ["twin"])


def test_a_tensor_of_two_onnx_nodes_is_not_trained(tmp_path: Path) -> None:
    weight = np.eye(3, dtype=np.float32)
    nodes = [node("MatMul", "x w", "a", "first"), node("MatMul", "a w", "y", "second")]
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3)}, outputs=["y"], weights={"w": weight})
    network = Network.of(formats.load([path]))
    assert [refusal.key for refusal in network.refused] == ["first", "second"]
    assert list(network.named_parameters()) == []


def test_weights_that_the_network_computes_are_not_trained(tmp_path: Path) -> None:
    nodes = [node("Abs", "w", "a", "made"), node("Conv", "x a", "y", "conv")]
    weights = {"w": np.ones((2, 3, 1, 1), np.float32)}
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3, 2, 2)}, outputs=["y"], weights=weights)
    (refusal,) = Network.of(formats.load([path])).refused
    assert (refusal.key, refusal.reason) == ("conv", "its weights are computed in the network")


def test_arithmetic_with_one_number_is_no_weight(tmp_path: Path) -> None:
    nodes = [node("Mul", "x half", "a", "halved"), node("Mul", "a each", "y", "scaled")]
    weights = {"half": np.array([0.5], np.float32), "each": np.ones((3, 1, 1), np.float32)}
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3, 2, 2)}, outputs=["y"], weights=weights)
    assert [name for name, _ in Network.of(formats.load([path])).named_parameters()] == ["scaled/0"]


def test_all_operators_that_are_not_known_are_named_with_their_layers(tmp_path: Path) -> None:
    nodes = [node("Det", "x", "a", "one"), node("Bernoulli", "x", "b", "two"), node("Det", "b", "c", "three")]
    path = tiny(tmp_path, nodes, inputs={"x": (1, 2, 2)}, outputs=["a", "c"], opset=15)
    with pytest.raises(ModelError, match=r"torch cannot run Det \('one', 'three'\); Bernoulli \('two'\)"):
        Network.of(formats.load([path]))


def test_a_batch_norm_in_training_normalises_by_the_batch_and_else_by_its_statistics(tmp_path: Path) -> None:
    model = small(tmp_path, CONV + BN, bn=STATISTICS, scale=AFFINE)
    network = Network.of(model)
    before, behind = network.made_by("conv")[0], network.made_by("bn")[0]
    network.ask([before, behind])
    stored = network(fed(batch(0)))
    # Caffe's statistics are times their factor, 2: a mean of 0.25, a variance of 1.5.
    torch.testing.assert_close(stored[behind], (stored[before] - 0.25) / np.sqrt(1.5 + 1e-5))
    trained = network.train()(fed(batch(0)))[behind]
    torch.testing.assert_close(trained.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(trained.var((0, 2, 3), correction=0), torch.ones(4), rtol=1e-4, atol=0)
    after = network.eval()(fed(batch(0)))[behind]
    assert not torch.equal(after, stored[behind])  # The statistics have moved.


def test_refreshed_statistics_are_the_moments_of_all_batches_together(tmp_path: Path) -> None:
    network = Network.of(small(tmp_path, CONV + BN, bn=STATISTICS, scale=AFFINE))
    before, behind = network.made_by("conv")[0], network.made_by("bn")[0]
    network.ask([before, behind])
    batches = [batch(1, 2), batch(2, 5), batch(3, 1)]
    network.refresh_batchnorm(map(fed, batches))
    found = network(fed({"data": np.concatenate([each["data"] for each in batches])}))
    rows = found[before].double()
    mean, variance = rows.mean((0, 2, 3), keepdim=True), rows.var((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(found[behind].double(), (rows - mean) / (variance + 1e-5).sqrt(), rtol=1e-5, atol=1e-5)
    assert not network.training


def test_without_batches_nothing_is_refreshed(tmp_path: Path) -> None:
    model = small(tmp_path, CONV + BN, bn=STATISTICS, scale=AFFINE)
    network = Network.of(model)
    network.refresh_batchnorm([])
    assert network.written(model) is model


def test_a_network_whose_layers_fix_the_batch_says_so(tmp_path: Path) -> None:
    reshape = (
        'layer { name: "flat" type: "Reshape" bottom: "conv" top: "flat" reshape_param { shape { dim: 2 dim: 64 } } }\n'
    )
    assert Network.of(small(tmp_path, CONV + reshape)).batch == 2
    assert Network.of(small(tmp_path, CONV + HEAD)).batch is None


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    with pytest.raises(EngineMissingError, match=r"^torch: .* not installed; install .* 'surgery\[torch\]'$"):
        installed.require_torch()
