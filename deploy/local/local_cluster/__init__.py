"""A real single-node Kubernetes, its image registry and its network on one Linux machine.

Everything runs from plain binaries below one state directory and listens on loopback or on the node's own bridge
address only. `python -m local_cluster up` starts it, `down` takes it away without a trace.
"""
