"""The module of a blueprint: shapes, fresh weights, what acts in training alone, and whitening."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from jointnas.errors import DataError, ExportError
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint, make_node
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.network.layers import CELU, CELU_PART, WHITENING_EPSILON, Add, BatchNorm, Linear, Resize, Whiten
from jointnas.network.module import Network, build, with_weights
from jointnas.network.weights_file import float_weights, load_weights, read_weights, save_weights
from jointnas.space.space import Space
from jointnas.training.proxconnect import ProxConnect
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = (4, 9, 7)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    """Return smooth random images, whose neighbouring pixels are alike as in photos."""
    coarse = torch.randn(n, channels, side // 2, side // 2, generator=seeded(seed))
    return F.interpolate(coarse, size=(side, side), mode="bilinear") + 0.3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 40, 32)])
@pytest.mark.parametrize("name", ["resnet9", "senet"])
def test_a_network_classifies_images_of_the_datas_own_size(name: str, shape: tuple[int, int, int]) -> None:
    for candidate in Space.load(name).fix({"width": 8 if name == "resnet9" else 0.05}).sample(2):
        network = build(make_blueprint(candidate["architecture"], shape, 7))
        assert network(torch.randn(2, *shape)).shape == (2, 7)


def test_the_same_generator_seed_gives_the_same_weights() -> None:
    network = make_blueprint({"network": "senet", "width": 0.1}, (3, 16, 16), 10)
    one, two, other = (build(network, seeded(s)).state_dict() for s in (5, 5, 6))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["blocks.0.nodes.0.weight"], other["blocks.0.nodes.0.weight"])


def test_a_passed_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    build(make_blueprint({"network": "resnet9", "width": 4}, (3, 16, 16), 10), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_weights_start_as_he_et_al_with_fan_in_and_biases_at_zero() -> None:
    block = BlockBuilder("block")
    block.conv(channels=400, kernel=3, bias=True)
    block.add("global_avg_pool")
    block.add("flatten")
    block.add("linear", features=300, bias=True)
    network = build(Blueprint.chain((16, 4, 4), [block.build()]), seeded(0))
    for layer, fan_in in zip(network.blocks[0].nodes[::3], (16 * 9, 400), strict=True):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
        assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)
        assert not layer.bias.any()


def values_and_gradients(activation: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the outputs, and the gradient of their sum weighted by numbers of both signs."""
    x = x.detach().requires_grad_()
    y = activation(x)
    y.backward(torch.randn(x.shape, generator=seeded(7)).to(x))
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 3e-7), (torch.bfloat16, 2**-8)]
)
def test_celu_is_pytorchs_and_its_gradient_exact(alpha: float, dtype: torch.dtype, tolerance: float) -> None:
    tiny = torch.logspace(-12, 3, 2000, dtype=torch.float64)
    noise = torch.randn(CELU_PART + 4000, generator=seeded(0), dtype=torch.float64)
    x = torch.cat([noise, tiny, -tiny, torch.zeros(1, dtype=torch.float64)]).to(dtype)
    found, gradient = values_and_gradients(CELU(alpha), x)
    expected, _ = values_and_gradients(torch.nn.CELU(alpha), x.double())
    weights = torch.randn(x.shape, generator=seeded(7)).to(x).double()
    slope = torch.exp(x.double().clamp(max=0) / alpha)  # PyTorch's own gradient rounds 1 / α to float32
    assert found.dtype == gradient.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * alpha)
    assert bool(((gradient.double() - weights * slope).abs() <= 2 * tolerance * weights.abs()).all())
    with torch.no_grad():
        assert torch.equal(CELU(alpha)(x), found)


def test_celus_gradient_is_that_of_its_values() -> None:
    x = torch.randn(40, generator=seeded(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(CELU(0.3), x)
    assert torch.autograd.gradgradcheck(CELU(0.3), x)


def test_celu_keeps_channels_last_memory_and_what_it_reads() -> None:
    x = torch.randn(2, *IMAGE, generator=seeded(0)).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    for values in values_and_gradients(CELU(0.3), x):
        assert values.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)
    assert CELU(0.3)(x[:0]).shape == x[:0].shape
    assert CELU(0.3)(x.to("meta")).shape == x.shape


def test_celu_exports_as_one_operation() -> None:
    x = torch.randn(2, *IMAGE, generator=seeded(0))
    program = torch.export.export(CELU(0.3).eval(), (x,))
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [torch.ops.aten.celu.default]
    torch.testing.assert_close(torch.jit.trace(CELU(0.3), x)(x), CELU(0.3)(x), rtol=1e-6, atol=1e-7)


def test_a_skip_adds_and_an_excitation_multiplies() -> None:
    block = BlockBuilder("block")
    block.add("relu", 0)
    block.add("add", 0, 1)
    block.add("global_max_pool", 2)
    block.add("multiply", 2, 3)
    x = torch.randn(2, *IMAGE)
    total = x + x.relu()
    expected = total * total.amax(dim=(2, 3), keepdim=True)
    assert torch.equal(build(Blueprint.chain(IMAGE, [block.build()]))(x), expected)


def test_blocks_read_what_the_wiring_says() -> None:
    double = Block("double", (make_node("scale", [0], {"factor": 2.0}),))
    total = Block("sum", (make_node("add", [0, 1], {}),), n_inputs=2)
    network = build(Blueprint((1, 2, 2), (double, double, total), ((0,), (0,), (2, 1))))
    x = torch.randn(3, 1, 2, 2)
    assert torch.equal(network(x), 4 * x)


def test_a_batch_norm_without_scale_has_a_shift_alone() -> None:
    norm = Block("norm", (make_node("batch_norm", [0], {"scale": False}),))
    network = build(Blueprint.chain((4, 3, 3), [norm]))
    assert [p.shape for p in network.parameters()] == [(4,)]
    out = network.train()(5 * torch.randn(64, 4, 3, 3, generator=seeded(0)) + 2)
    assert out.mean().item() == pytest.approx(0, abs=1e-5)
    assert out.std().item() == pytest.approx(1, abs=1e-3)


# ------------------------------------------------------------------------------------------- what acts in training alone


def a_batch_norm(channels: int, scale: bool, ghost: int) -> BatchNorm:
    norm = BatchNorm(channels, scale)
    norm.ghost = ghost
    for i, p in enumerate(norm.parameters()):
        torch.nn.init.normal_(p, generator=seeded(i))
    return norm


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("n", "ghost"), [(12, 4), (12, 5), (12, 2), (13, 5)])
def test_a_ghost_batch_norm_is_batch_norm_applied_to_each_part(n: int, ghost: int, scale: bool) -> None:
    x = 3 * torch.randn(n, 4, 5, 5, generator=seeded(9)) + torch.arange(n)[:, None, None, None]
    norm, twin = a_batch_norm(4, scale, ghost), a_batch_norm(4, scale, 0)
    found = norm.train()(x)
    sizes = {len(part) for part in torch.split(x, ghost)}
    expected = torch.cat([twin.train()(part) for part in torch.split(x, ghost)])  # running statistics follow one by one
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(norm.running_mean, twin.running_mean)
    torch.testing.assert_close(norm.running_var, twin.running_var)
    assert max(sizes) == ghost
    assert not torch.allclose(found, a_batch_norm(4, scale, 0).train()(x), atol=0.1)
    torch.testing.assert_close(norm.eval()(x), twin.eval()(x))  # scoring knows no ghosts


@pytest.mark.parametrize("ghost", [0, 12, 13])
def test_a_ghost_batch_as_large_as_the_batch_is_batch_norm(ghost: int) -> None:
    x = torch.randn(12, 4, 5, 5, generator=seeded(9))
    norm, twin = a_batch_norm(4, True, ghost), torch.nn.BatchNorm2d(4)
    twin.load_state_dict(norm.state_dict())
    assert torch.equal(norm.train()(x), twin.train()(x))
    torch.testing.assert_close(norm.running_var, twin.running_var, rtol=0, atol=0)


def test_a_sum_leaves_a_branch_out_of_an_image_and_keeps_its_expectation() -> None:
    add = Add()
    add.drop = 0.25
    shortcut, branch = torch.full((4000, 2, 1, 1), 5.0), torch.ones(4000, 2, 1, 1)
    torch.manual_seed(0)
    found = add.train()(shortcut, branch)
    assert sorted(set(found.flatten().tolist())) == pytest.approx([5, 5 + 1 / 0.75])
    assert torch.equal(found[:, 0], found[:, 1])  # the whole image
    assert found.mean().item() == pytest.approx(6, abs=0.03)
    assert (found == 5).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(add.eval()(shortcut, branch), shortcut + branch)


def test_each_branch_of_a_sum_is_left_out_on_its_own() -> None:
    add = Add()
    add.drop = 0.5
    torch.manual_seed(0)
    found = add.train()(torch.zeros(200, 1), torch.ones(200, 1), 10 * torch.ones(200, 1))
    assert set(found.flatten().tolist()) == {0.0, 2.0, 20.0, 22.0}


@pytest.mark.parametrize(
    ("architecture", "branches"),
    [({"network": "resnet9", "width": 4, "depth1": 2, "depth3": 1}, 3), ({"network": "senet", "width": 0.05}, 8)],
)
def test_deeper_branches_are_left_out_more_often_by_a_linear_rule(
    architecture: dict[str, object], branches: int
) -> None:
    network = build(make_blueprint(architecture, (3, 16, 16), 10))
    network.regularise(dropout=0.0, stochastic_depth=0.6, ghost_batch=0)
    drops = [m.drop for m in network.modules() if isinstance(m, Add)]
    assert drops == pytest.approx([0.6 * i / branches for i in range(1, branches + 1)])


@pytest.mark.parametrize("architecture", [{"network": "resnet9", "width": 4}, {"network": "senet", "width": 0.05}])
def test_an_image_that_skips_a_branch_keeps_its_shortcut(architecture: dict[str, object]) -> None:
    network = build(make_blueprint(architecture, (3, 16, 16), 10), seeded(0)).train()
    tried = 0
    for block, wires in zip(network.blocks, network.blueprint.wiring, strict=True):
        sums = [m for m in block.nodes if isinstance(m, Add)]  # type: ignore[union-attr]
        shape = network.blueprint.shapes()[wires[0]]
        if not sums or network.blueprint.shapes()[wires[0] + 1] != shape:
            continue  # a block without a branch, or one whose shortcut is a projection
        sums[0].drop = 1.0
        x = torch.randn(6, *shape, generator=seeded(1))
        assert torch.equal(block(x), x)
        tried += 1
    assert tried >= 2


def test_dropout_stands_before_the_last_linear_layer_alone() -> None:
    block = BlockBuilder("block")
    block.add("flatten")
    for features in (50, 50, 40):
        block.add("linear", features=features, bias=True)
    network = build(Blueprint.chain((50, 1, 1), [block.build()]), seeded(0))
    network.regularise(dropout=0.4, stochastic_depth=0.0, ghost_batch=0)
    layers = [m for m in network.modules() if isinstance(m, Linear)]
    assert [layer.dropout for layer in layers] == [0.0, 0.0, 0.4]
    x = torch.randn(2000, 50, generator=seeded(1))
    with torch.no_grad():
        assert torch.equal(layers[0].train()(x), layers[0].eval()(x))
        last = layers[-1]
        torch.nn.init.eye_(last.weight)
        torch.manual_seed(0)
        dropped = last.train()(torch.ones(2000, 50))
        assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 1 / 0.6])
        assert (dropped == 0).double().mean().item() == pytest.approx(0.4, abs=0.01)
        torch.testing.assert_close(last.eval()(torch.ones(2000, 50)), torch.ones(2000, 40))


def test_what_acts_in_training_alone_is_switched_off_again() -> None:
    network = build(make_blueprint({"network": "resnet9", "width": 4}, (3, 16, 16), 10), seeded(0))
    x = images(8, 3, 16)
    expected = network.train()(x)
    network.regularise(dropout=0.5, stochastic_depth=0.5, ghost_batch=4)
    assert not torch.allclose(network.train()(x), expected, atol=1e-3)
    network.regularise(dropout=0.0, stochastic_depth=0.0, ghost_batch=0)
    assert torch.equal(network.train()(x), expected)


def test_an_images_size_in_training_may_be_another_than_in_scoring() -> None:
    x = images(2, 3, 16)
    layer = Resize(8, 12)
    layer.training_size = (4, 6)
    assert layer.train()(x).shape == (2, 3, 4, 6)
    torch.testing.assert_close(layer(x), F.interpolate(x, size=(4, 6), mode="bilinear", antialias=True))
    assert layer.eval()(x).shape == (2, 3, 8, 12)
    layer.training_size = None
    assert layer.train()(x).shape == (2, 3, 8, 12)
    same = Resize(16, 16)
    assert same(x) is x


@pytest.mark.parametrize("resolution", [1.0, 0.5])
def test_a_network_trains_on_small_images_with_or_without_a_resizing_of_its_own(resolution: float) -> None:
    network = build(
        make_blueprint({"network": "resnet9", "width": 4, "resolution": resolution}, (3, 32, 32), 10), seeded(0)
    )
    assert network.resize.size == (round(32 * resolution),) * 2
    x = images(4, 3, 32)
    expected = network.eval()(x)
    sides: list[int] = []
    network.blocks[0].register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    network.resize.training_size = (12, 12)
    assert network.train()(x).shape == (4, 10)
    assert sides == [12]
    network.eval()
    for norm in (m for m in network.modules() if isinstance(m, BatchNorm)):
        norm.reset_running_stats()
    assert torch.equal(network(x), expected)
    assert sides[1:] == [round(32 * resolution)]
    assert len(list(network.state_dict())) == len(set(network.state_dict()))


# -------------------------------------------------------------------------------------------------- dirac initialisation


def spatial_convolutions(network: Network) -> list[torch.nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] > 1]


@pytest.mark.parametrize("architecture", [{"network": "resnet9", "width": 4}, {"network": "senet", "width": 0.1}])
def test_the_first_filters_of_a_dirac_initialisation_pass_their_channels_on(architecture: dict[str, object]) -> None:
    plan = make_blueprint(architecture, (3, 8, 8), 10)
    network, he = build(plan, seeded(0), dirac=True), build(plan, seeded(0))
    assert len(spatial_convolutions(network)) > 5
    for conv, twin in zip(spatial_convolutions(network), spatial_convolutions(he), strict=True):
        passed = min(conv.in_channels, conv.out_channels)
        x = torch.randn(2, conv.in_channels, 5, 5, generator=seeded(1))
        out = F.conv2d(x, conv.weight, padding=1)
        torch.testing.assert_close(out[:, :passed], x[:, :passed])
        assert torch.equal(conv.weight[passed:], twin.weight[passed:])  # only the rest is random, as without
        assert not torch.equal(conv.weight[:passed], twin.weight[:passed])
    spatial = {id(conv.weight) for conv in spatial_convolutions(network)}
    for p, twin_p in zip(network.parameters(), he.parameters(), strict=True):
        assert id(p) in spatial or torch.equal(p, twin_p)


def test_a_convolution_with_fewer_filters_than_channels_passes_the_first_ones_on() -> None:
    block = BlockBuilder("block")
    block.conv(channels=2, kernel=3)
    network = build(Blueprint.chain((5, 6, 6), [block.build()]), seeded(0), dirac=True)
    x = torch.randn(3, 5, 6, 6, generator=seeded(1))
    torch.testing.assert_close(network(x), x[:, :2])


# ------------------------------------------------------------------------------------------------------- whitening


def patches(batch: torch.Tensor, kernel: int = 3) -> torch.Tensor:
    """Return the (n·positions, C·k²) patches inside the images."""
    return F.unfold(batch, kernel).transpose(1, 2).flatten(0, 1).double()


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_with_the_shrunk_variances(channels: int) -> None:
    batch = images(200, channels, 12)
    layer = Whiten(channels, 3)
    layer.fit(batch)
    inside = layer(batch)[:, :, 1:-1, 1:-1]  # (n, C·9, 10, 10), where no border is padded
    covariance = torch.cov(inside.transpose(0, 1).flatten(1).double(), correction=0)
    values = torch.linalg.eigvalsh(torch.cov(patches(batch).T, correction=0)).flip(0)
    expected = torch.diag(values / (values + 1e-2))
    assert WHITENING_EPSILON == 1e-2
    assert values[0] > 100 * values[-1]
    torch.testing.assert_close(covariance, expected, atol=1e-3, rtol=0)


def test_an_unfitted_whitening_passes_the_patches_through() -> None:
    batch = images(2, 3, 6)
    expected = F.unfold(batch, 3, padding=1).reshape(2, 27, 6, 6)
    torch.testing.assert_close(Whiten(3, 3)(batch), expected)


def test_constant_images_give_a_finite_filter() -> None:
    layer = Whiten(1, 3)
    layer.fit(torch.ones(4, 1, 6, 6))
    assert layer.weight.isfinite().all()


@pytest.mark.parametrize(("n", "side", "count"), [(1, 5, 9), (2, 5, 18), (6, 2, 24), (26, 3, 26)])
def test_too_few_patches_are_refused_with_both_counts(n: int, side: int, count: int) -> None:
    with pytest.raises(DataError, match=rf"27 training patches, got {count}: .*whitening = false"):
        Whiten(3, 3).fit(torch.randn(n, 3, side, side, generator=seeded(0)))


def test_as_many_patches_as_a_patch_has_values_are_enough() -> None:
    layer = Whiten(3, 3)
    layer.fit(torch.randn(3, 3, 5, 5, generator=seeded(0)))  # 27
    assert layer.weight.isfinite().all()


def test_images_smaller_than_a_patch_can_be_whitened() -> None:
    layer = Whiten(2, 3)
    layer.fit(torch.randn(50, 2, 2, 2, generator=seeded(0)))
    out = layer(torch.randn(5, 2, 2, 2, generator=seeded(1)))
    assert out.shape == (5, 18, 2, 2)
    assert out.isfinite().all()


def test_a_network_fits_its_whitening_on_the_size_it_works_on() -> None:
    batch = images(64, 3, 16)
    network = build(make_blueprint({"network": "resnet9", "width": 4, "resolution": 0.75}, (3, 16, 16), 10))
    network.fit_whitening(batch)
    fitted = next(m for m in network.modules() if isinstance(m, Whiten))
    expected = Whiten(3, 3)
    expected.fit(F.interpolate(batch, size=(12, 12), mode="bilinear", antialias=True))
    torch.testing.assert_close(fitted.weight, expected.weight)
    assert not torch.equal(fitted.weight, Whiten(3, 3).weight)


def test_fitting_leaves_a_network_without_whitening_as_it_is() -> None:
    network = build(make_blueprint({"network": "resnet9", "width": 4, "whitening": False}, (1, 8, 8), 10))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.fit_whitening(images(8, 1, 8))
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_the_whitening_filter_is_stored_and_not_trained() -> None:
    network = build(make_blueprint({"network": "resnet9", "width": 4}, (3, 8, 8), 10))
    trained = {name for name, _ in network.named_parameters()}
    assert "blocks.0.nodes.0.weight" in network.state_dict()
    assert "blocks.0.nodes.0.weight" not in trained
    assert sum(p.numel() for p in network.parameters()) == blueprint_cost(network.blueprint)["params"]


# --------------------------------------------------------------------------------------------------- weights on disk


def test_weights_written_and_read_again_give_the_same_logits(tmp_path: Path) -> None:
    plan = make_blueprint({"network": "resnet9", "width": 4}, (3, 8, 8), 10)
    network = build(plan, seeded(0))
    network.fit_whitening(images(16, 3, 8))
    network.train()(images(16, 3, 8))  # moves the running statistics
    save_weights(network, tmp_path / "new" / "weights.safetensors")
    again = load_weights(build(plan, seeded(1)), tmp_path / "new" / "weights.safetensors")
    x = images(4, 3, 8, seed=1)
    assert torch.equal(again.eval()(x), network.eval()(x))


@pytest.mark.parametrize("content", [None, b"", b"weights", b"\xff" * 64, b"\x08" + 7 * b"\0" + b"{}      "])
def test_a_file_that_holds_no_such_weights_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"weights\.safetensors' do not fit their blueprint"):
        load_weights(build(make_blueprint({"network": "resnet9", "width": 4}, (3, 8, 8), 10)), path)


def test_weights_of_another_blueprint_are_refused(tmp_path: Path) -> None:
    narrow, wide = (build(make_blueprint({"network": "resnet9", "width": w}, (3, 8, 8), 10)) for w in (4, 6))
    save_weights(narrow, tmp_path / "weights.safetensors")
    with pytest.raises(ExportError, match="do not fit their blueprint"):
        load_weights(wide, tmp_path / "weights.safetensors")


def of_few_bits(**knobs: object) -> Network:
    """A network with random weights on the levels of its recipe."""
    candidate = {"architecture": {"network": "resnet9", "width": 4}, "recipe": {"quantiser": "binaryconnect", **knobs}}
    network = build(trained_blueprint(candidate, (3, 8, 8), 10), seeded(0))
    network.train()(images(16, 3, 8))  # moves statistics and ranges
    ProxConnect(network, Recipe.from_knobs(candidate["recipe"])).project(network)
    return network


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(
    "knobs", [{}, {"level_scales": "tensor"}, {"int8_activations": True, "weight_levels": "powers-of-two"}]
)
def test_packed_weights_give_the_same_logits_to_the_bit(bits: int, knobs: dict[str, object], tmp_path: Path) -> None:
    network, path = of_few_bits(weight_bits=bits, **knobs), tmp_path / "weights.safetensors"
    save_weights(network, path)
    again = load_weights(Network(network.blueprint), path)
    x = images(4, 3, 8, seed=1)
    assert torch.equal(again.eval()(x), network.eval()(x))
    header = 20_000  # of the file
    assert path.stat().st_size < blueprint_cost(network.blueprint)["size"] + header


def test_the_file_holds_as_many_bytes_of_tensors_as_the_size_counts(tmp_path: Path) -> None:
    network, path = of_few_bits(weight_bits=3), tmp_path / "weights.safetensors"
    save_weights(network, path)
    counts = sum(t.numel() for n, t in network.named_buffers() if n.endswith("num_batches_tracked"))
    assert sum(t.nbytes for t in load_file(path).values()) - 8 * counts == blueprint_cost(network.blueprint)["size"]


def test_weights_of_few_bits_start_a_network_of_floats_and_the_reverse(tmp_path: Path) -> None:
    few, path = of_few_bits(weight_bits=2), tmp_path / "weights.safetensors"
    save_weights(few, path)
    plain = Network(make_blueprint({"network": "resnet9", "width": 4}, (3, 8, 8), 10))
    plain.load_state_dict(float_weights(read_weights(path)))
    x = images(4, 3, 8, seed=1)
    assert torch.equal(plain.eval()(x), few.eval()(x))
    assert torch.equal(with_weights(few.blueprint, plain.state_dict()).eval()(x), few(x))


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 9},
        {"bits": 2**40},
        {"bits": "2"},
        {"levels": "odd"},
        {"scales": "row"},
        {"shape": [10**9, 10**9]},
        {"shape": "x"},
    ],
)
def test_a_damaged_description_of_packed_weights_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    network, path = of_few_bits(weight_bits=2), tmp_path / "weights.safetensors"
    save_weights(network, path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["packed"])
    first = next(iter(about))
    save_file(load_file(path), path, {"packed": json.dumps({**about, first: {**about[first], **change}})})
    with pytest.raises(ExportError, match=r"the packed weights in .* are damaged"):
        load_weights(Network(network.blueprint), path)


@pytest.mark.parametrize("groups", [1, 8])
def test_weights_that_meet_padding_alone_get_no_gradient_in_bfloat16(groups: int) -> None:
    block = BlockBuilder("strided")
    block.add("conv", channels=8, kernel=3, stride=2, padding=1, groups=groups, bias=False)
    network = build(Blueprint.chain((8, 1, 1), [block.build()])).to(memory_format=torch.channels_last)
    conv = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    outside = torch.ones(3, 3, dtype=torch.bool)
    outside[1, 1] = False
    for _ in range(20):
        conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            network(torch.randn(16, 8, 1, 1)).float().sum().backward()
        assert conv.weight.grad is not None
        assert bool((conv.weight.grad[..., outside] == 0).all())
