"""What a command line needs of the contract before it loads the models, which takes a fifth of a second.

The plugin of kubectl has nothing but this, the names of the kind and `text`: it runs on any Python.
"""

REQUEST_ENV = "QUANTIZATION_REQUEST"
"""Environment variable with the request of a pod."""
PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 300, 86400
"""How long a run waits for a storage that is away: by default, and at most."""
RETRY_ANNOTATION = "quantization.dev/retry"
"""On a QuantizationJob: any new value starts a failed job again."""
QJOB_UID_LABEL = "quantization.dev/job-uid"
"""On a Job and its pods: the uid of their QuantizationJob."""
CONTAINER_NAME = "quantizer"
PROGRESS_PORT = 8080
METRICS_PATH = "/metrics"
