"""How the embedded model is made: pictures drawn from an emoji font, a small SD1-architecture model, one command.

Not needed to run the server; see training/README.md.
"""
