"""ModelZoo: open models that can be fetched into their folders, over HTTP and on the page."""
