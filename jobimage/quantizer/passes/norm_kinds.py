"""What kind of norm a module is, by trying."""

import torch
from torch import Tensor, nn

from quantizer.algorithms.quarot.rotation_layout import NormKind


def norm_kind(module: nn.Module, width: int) -> NormKind | None:
    """What a module does with x [..., width]; None for what is no norm of a kind that is known."""
    weight = module._parameters.get("weight")
    if weight is None or weight.shape != (width,):
        return None
    generator = torch.Generator().manual_seed(0)
    x, scale, bias = (torch.randn(shape, generator=generator) for shape in ((3, width), (width,), (width,)))
    tried = type(module).__new__(type(module))
    tried.__dict__.update(module.__dict__)
    has_bias = module._parameters.get("bias") is not None
    held = {"weight": scale, "bias": bias} if has_bias else {"weight": scale}
    tried._parameters = {
        name: None if value is None else nn.Parameter(held[name], requires_grad=False)
        for name, value in module._parameters.items()
    }
    try:
        made = tried.forward(x) - (bias if has_bias else 0.0)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
        return None
    rms = x / x.square().mean(-1, keepdim=True).sqrt()
    centred = torch.nn.functional.layer_norm(x, (width,))
    expected: dict[NormKind, Tensor] = {
        "rms": rms * scale,
        "rms_plus_one": rms * (1.0 + scale),
        "layer": centred * scale,
        "layer_plus_one": centred * (1.0 + scale),
    }
    return next((kind for kind, value in expected.items() if torch.allclose(made, value, 1e-3, 1e-3)), None)
