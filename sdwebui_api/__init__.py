"""A Stable Diffusion WebUI-compatible API server that runs diffusion models in-process."""

__version__ = "0.1.0"
