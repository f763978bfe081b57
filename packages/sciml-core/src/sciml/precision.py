"""The precision that devices have."""

import torch

_WIDEST: dict[torch.device, torch.dtype] = {}


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has none."""
    if device not in _WIDEST:
        try:
            _WIDEST[device] = torch.zeros((), dtype=torch.float64, device=device).dtype
        except TypeError:
            _WIDEST[device] = torch.float32
    return _WIDEST[device]
