"""What a run is doing, and how long it will take: for the operator, for Prometheus and for the screen."""
