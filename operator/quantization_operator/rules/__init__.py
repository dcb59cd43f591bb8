"""The rules of `reconcile`, by the part of a job's life that they decide about."""
