"""Passes of Olive that are none of ours, each with the reason."""

GPTQ_OR_AWQ = "a GptqQuantizer or an AutoAWQQuantizer"

REASONS: dict[str, tuple[str, ...]] = {
    "gives some linears more bits than others; all linears of a pass have the same here": (
        "SelectiveMixedPrecision",
    ),
    "is not available; write GptqQuantizer, which is closer to the model at the same size": ("KQuant",),
    "trains its rotations, which is not available; write QuaRot": ("SpinQuant", "SGDG"),
    "prunes the model, which is not available": ("SliceGPT", "SparseGPT"),
    "searches for clipping limits alone; write AutoAWQQuantizer, which does that too": ("AutoClip",),
    "trains the model or takes its adapters apart, which is not available; quantize the merged model": (
        "LoRA",
        "QLoRA",
        "LoftQ",
        "DoRA",
        "LoHa",
        "LoKr",
        "QuantizationAwareTraining",
        "ExtractAdapters",
        "MergeAdapterWeights",
    ),
    f"rounds a finished ONNX graph; here {GPTQ_OR_AWQ} before the ModelBuilder does the rounding": (
        "OnnxQuantization",
        "OnnxDynamicQuantization",
        "OnnxStaticQuantization",
        "OnnxBlockWiseRtnQuantization",
        "OnnxHqqQuantization",
        "OnnxKQuantQuantization",
        "OnnxBnb4Quantization",
        "OnnxMatMul4Quantizer",
        "NVModelOptQuantization",
        "AimetQuantization",
        "IncQuantization",
        "IncDynamicQuantization",
        "IncStaticQuantization",
        "QuarkQuantization",
        "QuarkQuantizationVitisAI",
        "VitisAIQuantization",
    ),
    "changes the data types of a finished ONNX graph, which would no longer be the one that was checked": (
        "OnnxFloatToFloat16",
        "OrtMixedPrecision",
        "OnnxIODataTypeConverter",
        "MixedPrecisionOverrides",
    ),
    f"makes an ONNX graph in another way; write {GPTQ_OR_AWQ} and a ModelBuilder behind it": (
        "OnnxConversion",
        "OptimumConversion",
        "OptimumMerging",
        "MobiusBuilder",
    ),
    "is for a runtime that no artifact is made for; write a ModelBuilder, whose graph onnxruntime runs": (
        "OpenVINOConversion",
        "OpenVINOOptimumConversion",
        "OpenVINOQuantization",
        "OpenVINOQuantizationWithAccuracy",
        "OpenVINOWeightCompression",
        "OpenVINOIoUpdate",
        "OpenVINOEncapsulation",
        "QNNConversion",
        "QNNModelLibGenerator",
        "QNNContextBinaryGenerator",
        "QairtPreparation",
        "QairtGenAIBuilder",
        "QairtEncapsulation",
        "VitisGenerateModelLLM",
        "VitisGenerateModelSD",
        "RyzenGenerateModelLLM",
        "SNPEConversion",
        "SNPEQuantization",
        "ConvertHfToGguf",
    ),
}
"""Names of passes by what they do and why that is not here, to be read behind the name."""

AFTER_THE_JOB = (
    "CaptureSplitInfo",
    "GraphSurgeries",
    "MatMulNBitsToQDQ",
    "OnnxPeepholeOptimizer",
    "OrtTransformersOptimization",
    "OrtSessionParamsTuning",
    "DynamicToFixedShape",
    "StaticLLM",
    "SplitModel",
    "ComposeOnnxModels",
    "EPContextBinaryGenerator",
    "QNNPreprocess",
    "AddOliveMetadata",
    "VitisAIAddMetaData",
    "InputNCHWtoNHWC",
)
"""Passes that give a finished ONNX graph another form, for one device or runtime, with the same weights.

CaptureSplitInfo computes nothing: it notes where SplitModel shall cut.
"""

_REASONS = {name.lower(): reason for reason, names in REASONS.items() for name in names}
_AFTER = frozenset(name.lower() for name in AFTER_THE_JOB)
UNKNOWN = "is none of the passes here: GptqQuantizer, AutoAWQQuantizer, QuaRot and ModelBuilder"


def why_not(kind: str) -> str:
    """Why there is no pass of this name of Olive's, to be read behind the name."""
    return _REASONS.get(kind.lower(), UNKNOWN)


def comes_after_the_job(kind: str) -> bool:
    """Whether a pass of this name of Olive's only gives the finished graph another form."""
    return kind.lower() in _AFTER
