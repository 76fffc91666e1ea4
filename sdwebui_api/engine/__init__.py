"""Everything that touches torch modules: devices, checkpoint families and loading, weights cache, step batching."""
