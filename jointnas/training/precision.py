"""The training precision of a device: bfloat16 where the hardware supports it, else float32."""

from __future__ import annotations

import torch


def trains_in_bfloat16(device: torch.device) -> bool:
    """Return whether forward and backward passes run under bfloat16 autocast; weights and scoring stay in float32.

    They do on a GPU of compute capability 8 or more and on a CPU with AVX-512 BF16 or AMX; other CPUs emulate bfloat16, which is
    much slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
