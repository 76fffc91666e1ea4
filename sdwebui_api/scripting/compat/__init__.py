"""A1111's `modules.*` for extensions that were written for it: see `world` for how it hangs together.

Nothing of this is imported, and no import hook is set, until an extension that needs it is loaded.
"""
