import ldm.modules.attention  # noqa: F401
from modules import scripts  # noqa: F401
