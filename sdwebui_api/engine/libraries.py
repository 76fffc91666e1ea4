"""diffusers and transformers are imported when the first model is loaded: seconds that the page does not wait for."""

from __future__ import annotations

import threading

IMPORTING = threading.RLock()
"""To be held around an import of them inside a function: their modules fetch each other on demand and in circles, which
two threads that begin at once could find half done."""
