"""The artifact of a QuaRot run that computes online: its tensors, its config and the code it carries."""
