"""What a command line needs of the contract before it loads the models, which takes a fifth of a second."""

REQUEST_ENV = "QUANTIZATION_REQUEST"
"""Environment variable with the request of a pod."""
PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 300, 86400
"""How long a run waits for a storage that is away: by default, and at most."""
