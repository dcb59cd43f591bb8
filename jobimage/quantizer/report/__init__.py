"""What a run tells: progress while it runs, metrics, and the report that lies beside the model."""
