"""Networks that change a checkpoint: LoRA and its relatives merged into its weights, hypernetworks put before its keys
and values. Always in a variant of the checkpoint's modules, never in the shared ones."""
