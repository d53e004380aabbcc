"""Root-mean-square norms in one call of torch's own, where transformers makes six: 25 µs for 39 with SmolLM2 on a CPU.

Only in float32, where both round alike: below it torch multiplies by the weight before it rounds, transformers after.
"""

from __future__ import annotations

import torch

# transformers' classes that differ in their names alone. Other families' norms add one to the weight, say.
ALIKE = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})


class Norm(torch.nn.RMSNorm):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Its base class's, past two calls in Python."""
        return torch.rms_norm(hidden, self.normalized_shape, self._parameters["weight"], self.eps)


def replace_norms(model: torch.nn.Module) -> None:
    """Put ours in the place of each of these norms in ``model``, whose weights are on the meta device."""
    for name, module in list(model.named_modules()):
        weight = module._parameters.get("weight")
        if type(module).__name__ in ALIKE and weight is not None and weight.dtype == torch.float32:
            norm = Norm(weight.shape, float(module.variance_epsilon), device="meta", dtype=weight.dtype)
            model.set_submodule(name, norm)
