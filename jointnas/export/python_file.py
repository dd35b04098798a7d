"""A trained network as one plain Python file that needs PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from jointnas.errors import ExportError
from jointnas.network.blueprint import Blueprint, block_shapes
from jointnas.network.module import Network
from jointnas.network.operations.operation import Node, Shape
from jointnas.training.deployable import Deployable

Layer = Callable[[Node, Shape], str]
MODULES: Mapping[str, Layer] = {
    "conv": lambda n, s: (
        f"nn.Conv2d({s[0]}, {n.get('channels')}, {n.get('kernel')}, stride={n.get('stride')}, padding={n.get('padding')}, "
        f"groups={n.get('groups')}, bias={n.get('bias')})"
    ),
    "whiten": lambda n, s: (
        f"nn.Conv2d({s[0]}, {s[0] * n.get('kernel') ** 2}, {n.get('kernel')}, padding={n.get('kernel') // 2}, bias=False)"
    ),
    "linear": lambda n, s: f"nn.Linear({s[0]}, {n.get('features')}, bias={n.get('bias')})",
    "batch_norm": lambda n, s: f"nn.BatchNorm2d({s[0]})",
}
"""Operations with weights: the module of each, from its node and the shape that it reads."""

Expression = Callable[[Node, Sequence[str]], str]
EXPRESSIONS: Mapping[str, Expression] = {
    "relu": lambda n, x: f"F.relu({x[0]})",
    "relu6": lambda n, x: f"F.relu6({x[0]})",
    "celu": lambda n, x: f"F.celu({x[0]}, {n.get('alpha')})",
    "gelu": lambda n, x: f"F.gelu({x[0]})",
    "silu": lambda n, x: f"F.silu({x[0]})",
    "sigmoid": lambda n, x: f"torch.sigmoid({x[0]})",
    "hard_swish": lambda n, x: f"F.hardswish({x[0]})",
    "hard_sigmoid": lambda n, x: f"F.hardsigmoid({x[0]})",
    "scale": lambda n, x: f"{x[0]} * {n.get('factor')}",
    "max_pool": lambda n, x: f"F.max_pool2d({x[0]}, {n.get('kernel')}, {n.get('stride')}, {n.get('padding', 0)})",
    "avg_pool": lambda n, x: f"F.avg_pool2d({x[0]}, {n.get('kernel')}, {n.get('stride')}, {n.get('padding', 0)})",
    "global_max_pool": lambda n, x: f"F.adaptive_max_pool2d({x[0]}, 1)",
    "global_avg_pool": lambda n, x: f"F.adaptive_avg_pool2d({x[0]}, 1)",
    "resize": lambda n, x: f"resize({x[0]}, {n.get('height')}, {n.get('width')})",
    "flatten": lambda n, x: f"{x[0]}.flatten(1)",
    "shuffle": lambda n, x: f"torch.channel_shuffle({x[0]}, {n.get('groups')})",
    "add": lambda n, x: " + ".join(x),
    "concat": lambda n, x: f"torch.cat([{', '.join(x)}], dim=1)",
    "multiply": lambda n, x: f"{x[0]} * {x[1]}",
}
"""Operations without weights: the expression of each, from its node and the names of the values that it reads."""

HEADER = '''"""{title}

Needs PyTorch alone. `load()` returns the trained model in evaluation mode: (n, {shape}) uint8 images in, (n, {count}) probabilities out.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = {classes}


def resize(x, height, width):
    """Resize images (n, C, H, W) bilinearly with antialiasing, unless they have that size."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)

'''
EIGHT_BITS = '''

def eight_bits(x, limits):
    """Round values to 256 steps of a range."""
    scale = ((limits[1] - limits[0]) / 255).clamp_min(torch.finfo(torch.float32).tiny)
    zero = torch.round(-limits[0] / scale).clamp(0, 255)
    return (torch.clamp(torch.round(x / scale + zero), 0, 255) - zero) * scale

'''
FOOTER = '''

class Model(nn.Module):
    """The members' mean: (n, {shape}) uint8 images in, (n, {count}) probabilities out."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList([{members}])
        for i in range(len(self.members)):
            self.register_buffer(f"scale{{i}}", torch.ones({channels}, 1, 1))
            self.register_buffer(f"shift{{i}}", torch.zeros({channels}, 1, 1))

    def forward(self, images):
        votes = []
        for i, network in enumerate(self.members):
            x = images.float() * getattr(self, f"scale{{i}}") + getattr(self, f"shift{{i}}")
            logits = network(x)
            if {flips}[i]:  # the mean of an image and its mirror image
                logits = (logits + network(x.flip(3))) / 2
            votes.append(logits.softmax(dim=1))
        return torch.stack(votes).mean(dim=0)


def load(weights=Path(__file__).with_suffix(".pt")):
    """Return the trained model."""
    model = Model()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


if __name__ == "__main__":
    model = load()
    probabilities = model(torch.zeros(1, {shape}, dtype=torch.uint8))
    print(f"{{sum(p.numel() for p in model.parameters()):,}} parameters, {{len(CLASSES)}} classes, output {{tuple(probabilities.shape)}}")
'''


def write_python(
    model: Deployable, blueprints: Sequence[Blueprint], classes: Sequence[str], title: str
) -> tuple[str, dict[str, Tensor]]:
    """Return the text of the file and the weights beside it. Raises `ExportError` for a network of another library."""
    state: dict[str, Tensor] = {}
    names: dict[Blueprint, str] = {}
    for i, (member, blueprint) in enumerate(zip(model.members, blueprints, strict=True)):
        names.setdefault(blueprint, f"Network{len(names) + 1}" if len(set(blueprints)) > 1 else "Network")
        state |= {f"members.{i}.{name}": tensor for name, tensor in _weights(blueprint, member.network).items()}  # type: ignore[arg-type]
        state |= {f"scale{i}": member.scale, f"shift{i}": member.shift}  # type: ignore[dict-item]
    channels, height, width = blueprints[0].input_shape
    filled = {
        "title": title,
        "shape": f"{channels}, {height}, {width}",
        "count": len(classes),
        "classes": [str(name) for name in classes],
        "channels": channels,
        "members": ", ".join(f"{names[blueprint]}()" for blueprint in blueprints),
        "flips": tuple(bool(member.flip) for member in model.members),
    }
    steps = (
        [EIGHT_BITS] if any(n.get("activation_bits") for b in blueprints for own in b.blocks for n in own.nodes) else []
    )
    parts = [HEADER.format(**filled), *steps, *(_class(name, b) for b, name in names.items()), FOOTER.format(**filled)]
    return "".join(parts), {name: tensor.detach().clone() for name, tensor in state.items()}


def _class(name: str, blueprint: Blueprint) -> str:
    """Return the class of a network's logits."""
    made, lines = ["super().__init__()"], []
    outputs = ["x"]  # the name of each of the network's values
    for i, (block, wiring) in enumerate(zip(blueprint.blocks, blueprint.wiring, strict=True)):
        shapes = block_shapes(block, tuple(blueprint.shapes()[j] for j in wiring))
        values = [outputs[j] for j in wiring]
        lines.append(f"# {_identifier(block.name)}")
        for j, node in enumerate(block.nodes):
            read = [values[k] for k in node.inputs]
            own = f"{_identifier(block.name)}{i}_{j}"
            if node.operation in MODULES:
                made.append(f"self.{own} = {MODULES[node.operation](node, shapes[node.inputs[0]])}")
                given = read[0]
                if node.get("activation_bits"):
                    made.append(f'self.register_buffer("{own}_range", torch.zeros(2))')
                    given = f"eight_bits({given}, self.{own}_range)"
                expression = f"self.{own}({given})"
            elif node.operation == "blend":
                made.append(f"self.{own} = nn.Parameter(torch.ones(()))")
                expression = f"torch.lerp({read[1]}, {read[0]}, self.{own})"
            elif node.operation in EXPRESSIONS:
                expression = EXPRESSIONS[node.operation](node, read)
            else:
                library = node.get("library", node.operation)
                raise ExportError(
                    f"a plain file holds this project's own networks, got one of {library}: use --format onnx"
                )
            values.append(f"v{i}_{j}")
            lines.append(f"v{i}_{j} = {expression}")
        outputs.append(values[-1])
    resized = blueprint.input_shape[1:]
    start = [] if blueprint.blocks[0].nodes[0].operation == "resize" else [f"x = resize(x, {resized[0]}, {resized[1]})"]
    init = "\n        ".join(made)
    body = "\n        ".join([*start, *lines, f"return {outputs[-1]}"])
    return f'''
class {name}(nn.Module):
    """Normalised images in, logits out."""

    def __init__(self):
        {init}

    def forward(self, x):
        {body}
'''


def _weights(blueprint: Blueprint, network: Network) -> dict[str, Tensor]:
    """Return a network's tensors by their names in the file's class."""
    state = network.state_dict()
    renamed: dict[str, Tensor] = {}
    for i, block in enumerate(blueprint.blocks):
        for j, node in enumerate(block.nodes):
            own, prefix = f"{_identifier(block.name)}{i}_{j}", f"blocks.{i}.nodes.{j}."
            tensors = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            if node.operation == "blend":
                renamed[own] = tensors["weight"]
                continue
            if node.operation == "batch_norm" and "weight" not in tensors:
                tensors["weight"] = torch.ones_like(tensors["bias"])
            tensors.pop("weight_scale", None)  # the weights are written as floats
            if "inputs.range" in tensors:
                renamed[f"{own}_range"] = tensors.pop("inputs.range")
            renamed |= {f"{own}.{name}": tensor for name, tensor in tensors.items()}
    return renamed


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
