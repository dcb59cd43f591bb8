"""What a run tells afterwards: the report and the model card that lie beside the model."""
