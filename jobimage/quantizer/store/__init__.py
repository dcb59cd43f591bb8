"""Where models, texts and artifacts lie: one interface over S3 and local directories."""
