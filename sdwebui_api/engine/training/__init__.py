"""Teaching a model something new: embeddings and hypernetworks, with the model's own weights untouched."""
