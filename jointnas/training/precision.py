"""In which precision a device trains: bfloat16 where it computes in it natively, else float32."""

from __future__ import annotations

import torch


def trains_in_bfloat16(device: torch.device) -> bool:
    """Return whether forward and backward passes run under bfloat16 autocast; weights and scoring stay in float32.

    A GPU of compute capability 8 or more, or a CPU with AVX-512 BF16 or AMX, for which `benchmarks/costs/devices.py` measures 1.3 to
    2 times the speed of float32. A CPU without them emulates bfloat16 and is many times slower.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
