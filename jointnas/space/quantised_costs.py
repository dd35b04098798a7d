"""Costs of whole batches of networks with weights of few bits, from those in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from jointnas.network.cost import BYTES_PER_VALUE, FLOAT_BITOPS, FLOAT_BITS, RANGE_BYTES
from jointnas.network.operations.packing import ACTIVATION_BITS, CHANNEL
from jointnas.network.quantisation import INNER, all_layers, first_layer, last_layer
from jointnas.space.cost_table import Architectures
from jointnas.space.knobs import Codes
from jointnas.training.recipe_columns import Columns, column, quantises

Array = NDArray[np.float64]


def quantised_costs(
    costs: Mapping[str, Array], architectures: Architectures, codes: Codes, recipes: Columns
) -> dict[str, Array]:
    """Return (n,) costs of one view as `blueprint_cost` gives them for `quantised` networks.

    costs: of float32 networks. codes: (n, knobs) of their architectures. recipes: the knobs of their quantisers.
    """
    n = len(codes)
    rows = np.flatnonzero(quantises(recipes, n))
    if not len(rows):
        return dict(costs)
    own = codes[rows]
    layers = architectures.sums(own, all_layers)
    first, last = architectures.ends(own, first_layer, last_layer)
    inner = column(recipes, "quantised_layers", n)[rows] == INNER
    enough = layers[:, 0] > 2
    layers = np.where(inner[:, None], np.where(enough[:, None], layers - first - last, 0.0), layers)
    count, weights, channels, macs = layers[:, :4].T
    bits = column(recipes, "weight_bits", n)[rows].astype(np.int64)
    activations = column(recipes, "int8_activations", n)[rows].astype(bool)
    scales = np.where(column(recipes, "level_scales", n)[rows] == CHANNEL, channels, count)
    packed = layers[np.arange(len(rows)), 3 + bits] + BYTES_PER_VALUE * scales + RANGE_BYTES * count * activations
    saved = BYTES_PER_VALUE * weights - packed
    found = {name: np.array(values, dtype=np.float64) for name, values in costs.items()}
    found["size"][rows] -= saved
    found["memory"][rows] -= saved
    a = np.where(activations, ACTIVATION_BITS, FLOAT_BITS)
    found["bitops"][rows] -= macs * (FLOAT_BITOPS - bits * a)
    return found
