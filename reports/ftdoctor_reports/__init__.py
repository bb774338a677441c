"""A report is a function from a run to text: one file a format. Reports read results and nothing else."""
