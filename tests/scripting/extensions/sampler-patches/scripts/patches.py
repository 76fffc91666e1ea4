"""The file brings what its package defines, as dynamic-prompts does."""

from patches_lib.enlarge import Enlarge  # noqa: F401
from patches_lib.mimic import Mimic  # noqa: F401
from patches_lib.trail import Trail  # noqa: F401
