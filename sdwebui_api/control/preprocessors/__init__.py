"""The preprocessors, one module per subject; each lists its own in `PREPROCESSORS`."""
