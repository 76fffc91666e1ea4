"""Networks of preprocessors, read from their authors' own files; dimensions come from the tensors inside."""
