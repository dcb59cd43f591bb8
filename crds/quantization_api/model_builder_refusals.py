"""Combinations of ModelBuilder's own parameters that are refused, each with what to write instead."""

from quantization_api.refusals import Refusal, among, equals, given

MODEL_BUILDER: tuple[Refusal, ...] = (
    Refusal(
        "precision",
        among("precision", ("fp16", "fp32")),
        "precision fp16 and fp32 are not possible: the graph keeps the integers of the quantized checkpoint; "
        "write precision: int4, or int8 after 8 bits",
    ),
    Refusal(
        "execution_provider",
        ~among("execution_provider", ("cpu", "cuda")),
        "execution_provider must be cpu or cuda: for another the graph could not be checked; write cpu",
    ),
    Refusal(
        "int4_accuracy_level",
        equals("execution_provider", "cuda") & given("int4_accuracy_level"),
        "int4_accuracy_level is a choice of the CPU's kernel; leave it out with execution_provider: cuda",
    ),
    Refusal(
        "int4_accuracy_level",
        among("int4_accuracy_level", (2, 3)),
        "int4_accuracy_level 2 and 3 are the same as 1 on a CPU; write 1 (fp32), or 4 (int8 activations: "
        "faster, less exact)",
    ),
)
