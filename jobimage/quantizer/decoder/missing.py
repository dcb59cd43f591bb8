"""Why a checkpoint that belongs to a model may lack a tensor of it."""

from quantizer.decoder.skeleton import ANOTHER_TYPE, Skeleton, unsupported


def check_stored(skeleton: Skeleton, name: str) -> None:
    """Refuses a type of which no checkpoint has this tensor; nothing where one should have it.

    Raises:
        QuantizationError: ModelUnsupported.
    """
    kind = skeleton.model_type
    tied = getattr(skeleton.causal, "all_tied_weights_keys", {})
    if name in tied and name.startswith(f"{skeleton.layers_name}."):
        raise unsupported(
            f"{name} is {tied[name]}: layers of this {kind} model share tensors, and each layer is quantized by itself",
            ANOTHER_TYPE,
        )
    if (
        skeleton.architecture.blocks
    ):  # so in the image of the stock packages: its transformers converts no names
        return
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    if get_checkpoint_conversion_mapping(kind):
        raise unsupported(
            f"the checkpoint lacks the tensor {name}: those of {kind} models have other names or shapes than its "
            "modules, and transformers converts them as it loads them",
            ANOTHER_TYPE,
        )
