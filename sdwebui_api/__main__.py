"""`python -m sdwebui_api [flags]`: the server in the current interpreter."""

import sys

from sdwebui_api.cli import main

if __name__ == "__main__":
    sys.exit(main())
