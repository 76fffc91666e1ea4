"""BeautifulPrompt: a few words become a full prompt, by a language model from disk or by a grammar of phrases."""
