"""IP-Adapters for faces: who somebody is, told by 512 numbers, as a second prompt.

FaceID, its "plus" forms (which look at the picture as well) and "portrait" come from IP-Adapter's authors; InstantID is
Wang et al. 2024, arXiv 2401.07519. FaceID's files hold LoRA weights too. These are not read: as with the ControlNet
extension, the LoRA of the same name belongs into the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdwebui_api.engine.ldm_names import indices
from sdwebui_api.engine.networks.clip_vision import as_input
from sdwebui_api.engine.networks.control import Hint
from sdwebui_api.engine.networks.ip_adapter import IPAdapter, QueryLayer, Resampler
from sdwebui_api.engine.reading import Shapes, reading_structure

IDENTITY = 512
"""Numbers that describe a face."""
FACE_ID, INSTANT_ID = "faceid", "instantid"
"""Whose networks describe it: InsightFace's `buffalo_l`, brought to length one, or its `antelopev2` as it is."""

_PREFIX = "image_proj."


class FaceAdapter(IPAdapter):
    """An `IPAdapter` that is told an identity. recogniser: FACE_ID or INSTANT_ID."""

    @property
    def recogniser(self) -> str:
        return INSTANT_ID if isinstance(self.module.projection, IdentityResampler) else FACE_ID

    def embed(self, hint: Tensor) -> Hint:
        raise AssertionError("needs an identity")

    def embed_face(self, hint: Tensor, identity: Tensor) -> Hint:
        """hint: pictures `[N, 3, H, W]` in [0, 1]; identity: `[N, 512]`. Holds the device meanwhile."""
        place = self._device.plan.device
        with self._device.running(self._module):
            told = identity.to(place, self._dtype)
            if self._module.encoder is None:
                return self._module.projection(told), self._module.projection(torch.zeros_like(told))
            pixels = as_input(hint.to(place, torch.float32), self._module.encoder.config.image_size)
            seen = self._module.encoder(pixels.to(self._dtype), output_hidden_states=True).hidden_states[-2]
            nobody = self._module.projection(torch.zeros_like(told), torch.zeros_like(seen))
            return self._module.projection(told, seen), nobody


class FaceProjection(nn.Module):
    """One identity to a few tokens. file names: `proj.0`, `proj.2`, `norm`."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        hidden, identity = shapes["proj.0.weight"]
        self.width = shapes["norm.weight"][0]
        self.proj = nn.Sequential(nn.Linear(identity, hidden), nn.GELU(), nn.Linear(hidden, shapes["proj.2.weight"][0]))
        self.norm = nn.LayerNorm(self.width)

    def forward(self, identity: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(identity).reshape(len(identity), -1, self.width))
        return tokens


class FacePlusProjection(FaceProjection):
    """An identity's tokens, which look at every patch of the picture. shortcut: of version 2, where they are kept."""

    def __init__(self, shapes: Shapes, *, shortcut: bool) -> None:
        super().__init__(shapes)
        mark = "perceiver_resampler."
        inner = {name.removeprefix(mark): shape for name, shape in shapes.items() if name.startswith(mark)}
        self.input_width = inner["proj_in.weight"][1]
        self.perceiver_resampler = _FacePerceiver(inner)
        self._shortcut = shortcut

    def forward(self, identity: Tensor, features: Tensor) -> Tensor:  # type: ignore[override]
        tokens = super().forward(identity)
        looked: Tensor = self.perceiver_resampler(tokens, features)
        return tokens + looked if self._shortcut else looked


class _FacePerceiver(nn.Module):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        width, input_width = shapes["proj_in.weight"]
        self.proj_in = nn.Linear(input_width, width)
        self.proj_out = nn.Linear(width, shapes["proj_out.weight"][0])
        self.norm_out = nn.LayerNorm(shapes["norm_out.weight"][0])
        self.layers = nn.ModuleList(QueryLayer(shapes, index, width) for index in indices(shapes, "layers."))

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        features = self.proj_in(features)
        for layer in self.layers:
            latents = layer(latents, features)
        tokens: Tensor = self.norm_out(self.proj_out(latents))
        return tokens


class IdentityResampler(Resampler):
    """InstantID's: a few learned queries look at the identity."""

    def forward(self, identity: Tensor) -> Tensor:
        return super().forward(identity[:, None])


def is_face_adapter(shapes: Shapes) -> bool:
    reads_identity = shapes.get(f"{_PREFIX}proj_in.weight", ())[1:] == (IDENTITY,)
    projects = f"{_PREFIX}proj.0.weight" in shapes and f"{_PREFIX}norm.weight" in shapes
    return reads_identity or projects


@reading_structure("the face adapter")
def face_projection(
    tensors: Mapping[str, Tensor], shapes: Shapes, *, shortcut: bool
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module without memory (call on the meta device) and its tensors. Raises UnusableModel."""
    own = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    inner = {name.removeprefix(_PREFIX): shape for name, shape in shapes.items() if name.startswith(_PREFIX)}
    if "latents" in own:
        return IdentityResampler(inner), own
    if any(name.startswith("perceiver_resampler.") for name in own):
        return FacePlusProjection(inner, shortcut=shortcut), own
    return FaceProjection(inner), own
