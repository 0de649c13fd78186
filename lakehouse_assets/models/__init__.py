"""One file a model: a ModelDefinition, nothing else."""
