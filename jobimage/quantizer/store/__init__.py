"""Storage of models, texts and artifacts: one interface to S3 and local directories."""
