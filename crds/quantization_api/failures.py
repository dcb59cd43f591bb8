"""Failure categories: what can go wrong, why, and what to do about it.

One table decides everything that depends on a category: the process's exit code, whether trying
again can help, and the cause and cure printed in the reference page. Categories are stable names:
they appear in `status.failure.category` and as a label of the metrics.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the quantizer (after BSD's sysexits). The Job's podFailurePolicy is made from them."""

    DONE = 0
    USAGE = 64
    DATA = 65
    NOT_FOUND = 66
    INTERNAL = 70
    OUT_OF_MEMORY = 71
    CANNOT_CREATE_OUTPUT = 73
    TRY_AGAIN = 75
    ACCESS_DENIED = 77
    INVALID_WORKFLOW = 78
    INTERRUPTED = 130  # SIGINT: Ctrl-C, with the state saved
    TERMINATED = 143  # SIGTERM, with the state saved


class Category(StrEnum):
    """Why a job did not succeed."""

    INVALID_WORKFLOW = "InvalidWorkflow"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_UNSUPPORTED = "ModelUnsupported"
    DATA_NOT_FOUND = "DataNotFound"
    DATA_INSUFFICIENT = "DataInsufficient"
    ACCESS_DENIED = "AccessDenied"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    ARTIFACT_CORRUPT = "ArtifactCorrupt"
    ARTIFACT_CONFLICT = "ArtifactConflict"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    SCRATCH_FULL = "ScratchFull"
    NUMERICAL_FAILURE = "NumericalFailure"
    QUALITY_GOAL_MISSED = "QualityGoalMissed"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    IMAGE_UNUSABLE = "ImageUnusable"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    PRIORITY_CLASS_NOT_FOUND = "PriorityClassNotFound"
    RUNTIME_CLASS_NOT_FOUND = "RuntimeClassNotFound"
    RESOURCE_CLAIM_NOT_FOUND = "ResourceClaimNotFound"
    SCHEDULER_NOT_FOUND = "SchedulerNotFound"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ADMISSION_DENIED = "AdmissionDenied"
    UNSCHEDULABLE = "Unschedulable"
    ADDED_CONTAINER = "AddedContainerFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    DISRUPTED = "Disrupted"
    NODE_LOST = "NodeLost"
    JOB_DELETED = "JobDeleted"
    INTERNAL = "Internal"


@dataclass(frozen=True)
class Entry:
    """What the catalogue says of one category."""

    cause: str
    cure: str
    exit_code: ExitCode | None
    """With which the quantizer ends; None where only Kubernetes can see the failure."""
    permanent: bool
    """The same manifest on the same cluster would fail again, so the Job ends at once."""
    cure_here: str = ""
    """The cure for a person at a command line, where the cure speaks of pods and Secrets."""


CATALOGUE: dict[Category, Entry] = {
    Category.INVALID_WORKFLOW: Entry(
        "The workflow asks for something that cannot be computed: a value that does not fit the model "
        "(a group size that does not divide a layer) or options that contradict each other.",
        "Change spec.workflow as the message says; it is immutable, so delete the object and apply the new one.",
        ExitCode.INVALID_WORKFLOW,
        True,
        "Correct the manifest or the options as the message says.",
    ),
    Category.MODEL_NOT_FOUND: Entry(
        "There is nothing, or no model (config.json and safetensors), at input_model.model_path.",
        "Check the path and, for a mounted volume, spec.template.volumes; list the place with the same credentials.",
        ExitCode.NOT_FOUND,
        True,
        "Check the path.",
    ),
    Category.MODEL_UNSUPPORTED: Entry(
        "The model's architecture, its dtype or its file layout is not supported, or it is already quantized in a way "
        "that is not read.",
        "Do what the failure's hint says: each cause has its own. Most often another checkpoint of the same model will "
        "do: whole, with fp16, bf16 or fp32 weights in safetensors.",
        ExitCode.DATA,
        True,
    ),
    Category.DATA_NOT_FOUND: Entry(
        "A calibration or evaluation data set cannot be found or read.",
        "Correct load_dataset_config.data_name: an s3:// URI or a mounted path; a hub id needs internet access.",
        ExitCode.NOT_FOUND,
        True,
        "Check the path of the text.",
    ),
    Category.DATA_INSUFFICIENT: Entry(
        "The data set yields fewer sequences than requested, for example a text shorter than one sequence.",
        "Give more text, or lower max_samples or max_seq_len.",
        ExitCode.DATA,
        True,
    ),
    Category.ACCESS_DENIED: Entry(
        "The storage refused the credentials, or they may not read the input or write the output.",
        "Check the Secret that spec.storage.credentialsSecret names and the policy of the bucket.",
        ExitCode.ACCESS_DENIED,
        True,
        "Check the permissions of the file; for S3, the credentials in the environment and the policy of the "
        "bucket.",
    ),
    Category.STORAGE_UNAVAILABLE: Entry(
        "The storage cannot be reached, answers with server errors, is full, or returns the wrong bytes: a file was "
        "replaced while it was read, or bits flipped on the way.",
        "Check spec.storage.endpoint and the storage itself; a run waits for spec.storage.patienceSeconds, then the "
        "job tries again by itself until backoffLimit.",
        ExitCode.TRY_AGAIN,
        False,
        "Check the storage and its address (--endpoint), then run the same command again.",
    ),
    Category.ARTIFACT_CORRUPT: Entry(
        "What was stored does not match its checksum, or does not load.",
        "Delete the output and run again; if it comes back, suspect the storage.",
        ExitCode.TRY_AGAIN,
        False,
    ),
    Category.ARTIFACT_CONFLICT: Entry(
        "The output already holds an artifact of another recipe, or another job writes to it.",
        "Delete the artifact that is there and start the job again (annotation quantization.dev/retry), or delete the "
        "job and apply it with another output.uri.",
        ExitCode.CANNOT_CREATE_OUTPUT,
        True,
        "Choose another output, or remove the artifact that is there with quantizer delete.",
    ),
    Category.HOST_OUT_OF_MEMORY: Entry(
        "The pod needed more memory than its limit and was killed, or an allocation failed.",
        "Raise spec.template.resources.limits.memory, or lower max_seq_len or max_samples.",
        ExitCode.OUT_OF_MEMORY,
        True,
        "Use a machine with more memory, or lower max_seq_len or max_samples.",
    ),
    Category.GPU_OUT_OF_MEMORY: Entry(
        "The GPU has too little free memory for one decoder layer, its Hessians and a batch.",
        "Ask for a larger GPU, or lower max_seq_len.",
        ExitCode.OUT_OF_MEMORY,
        True,
        "Use a larger GPU or --device cpu, or lower max_seq_len.",
    ),
    Category.SCRATCH_FULL: Entry(
        "The scratch volume is full.",
        "Raise spec.template.scratchSize.",
        ExitCode.CANNOT_CREATE_OUTPUT,
        True,
        "Free some space, or name a directory on another disk with --scratch DIR.",
    ),
    Category.NUMERICAL_FAILURE: Entry(
        "A number is not finite, a Hessian cannot be factored, or a layer is worse than rounding to nearest (RTN).",
        "Check the weights and the calibration text; raise damp_percent.",
        ExitCode.DATA,
        True,
    ),
    Category.QUALITY_GOAL_MISSED: Entry(
        "The model was quantized, but a metric misses its goal; the artifact was not published.",
        "Use more bits or a smaller group_size, better calibration data, or a goal that fits.",
        ExitCode.DATA,
        True,
    ),
    Category.IMAGE_PULL_FAILED: Entry(
        "The image cannot be pulled: it does not exist or the registry refuses.",
        "Correct spec.template.image or imagePullSecrets.",
        None,
        True,
    ),
    Category.IMAGE_UNUSABLE: Entry(
        "The image was pulled and cannot be run: it is no image of the quantizer, it is for another kind of processor, "
        "or its user is root.",
        "Name an image of the quantizer for the node's architecture in spec.template.image.",
        None,
        False,
    ),
    Category.VOLUME_NOT_FOUND: Entry(
        "A volume cannot be mounted: its claim or its ConfigMap does not exist in the job's namespace, or the claim "
        "cannot be attached to the node.",
        "Create what spec.template.volumes names in the job's namespace, or correct the name.",
        None,
        False,
    ),
    Category.SERVICE_ACCOUNT_NOT_FOUND: Entry(
        "The service account that spec.template.serviceAccountName names does not exist in the job's namespace.",
        "Create the service account in the job's namespace, or correct spec.template.serviceAccountName.",
        None,
        True,
    ),
    Category.PRIORITY_CLASS_NOT_FOUND: Entry(
        "The cluster has no PriorityClass of the name in spec.template.priorityClassName.",
        "Correct spec.template.priorityClassName; kubectl get priorityclasses lists those that there are.",
        None,
        True,
    ),
    Category.RUNTIME_CLASS_NOT_FOUND: Entry(
        "The cluster has no RuntimeClass of the name in spec.template.runtimeClassName, or the node's container "
        "runtime does not know its handler.",
        "Correct spec.template.runtimeClassName, or choose nodes that have that runtime with "
        "spec.template.nodeSelector; kubectl get runtimeclasses lists the classes.",
        None,
        True,
    ),
    Category.RESOURCE_CLAIM_NOT_FOUND: Entry(
        "A ResourceClaim, or the template that one is made from, does not exist in the job's namespace.",
        "Create what spec.template.resourceClaims names in the job's namespace, or correct the name.",
        None,
        True,
    ),
    Category.SCHEDULER_NOT_FOUND: Entry(
        "No scheduler of the name in spec.template.schedulerName looks at the pod.",
        "Correct spec.template.schedulerName, leave it out, or start that scheduler.",
        None,
        True,
    ),
    Category.QUOTA_EXCEEDED: Entry(
        "A ResourceQuota of the namespace has no room for the Job or its pod, or wants resources that it does not set.",
        "Lower or set spec.template.resources as the message says, wait until other jobs end, or raise the quota.",
        None,
        True,
    ),
    Category.ADMISSION_DENIED: Entry(
        "The API server refuses the Job or its pod: Pod Security, a LimitRange, a policy, a webhook that does not "
        "answer, or rights that the operator does not have.",
        "Change what the message names in spec.template, or ask the owner of the rule that it names.",
        None,
        True,
    ),
    Category.UNSCHEDULABLE: Entry(
        "No node has room for the pod, or none that it may run on.",
        "Lower the requests, add nodes, or allow more of them (nodeSelector, affinity, tolerations); the message has "
        "the scheduler's reason.",
        None,
        True,
    ),
    Category.ADDED_CONTAINER: Entry(
        "A container that something else added to the pod, such as the sidecar of a service mesh, fails or does not "
        "start.",
        "Correct that container where it is added, or keep it out of the pod; then start the job again (annotation "
        "quantization.dev/retry).",
        None,
        False,
    ),
    Category.DEADLINE_EXCEEDED: Entry(
        "The job ran longer than activeDeadlineSeconds.",
        "Raise activeDeadlineSeconds.",
        None,
        True,
    ),
    Category.DISRUPTED: Entry(
        "Pods of the job were evicted, preempted or drained, and no new one finished.",
        "Nothing is wrong with the job: start it again when the cluster is calm (annotation quantization.dev/retry).",
        ExitCode.TERMINATED,
        False,
        "Run the same command to go on.",
    ),
    Category.NODE_LOST: Entry(
        "The node that ran the pod stopped answering.",
        "Bring the node back; or, if it is off, taint it as out of service, so that a new pod is created.",
        None,
        False,
    ),
    Category.JOB_DELETED: Entry(
        "Somebody deleted the Job while it ran.",
        "Start the job again (annotation quantization.dev/retry).",
        None,
        True,
    ),
    Category.INTERNAL: Entry(
        "A bug in the operator or the quantizer, or an ending that nothing explains.",
        "Report it with the message and the log of the pod.",
        ExitCode.INTERNAL,
        False,
        "Report it with the message and the lines above it.",
    ),
}


class QuantizationError(Exception):
    """An error with a category, a message for a person and a hint that says what to change.

    Everything that the quantizer raises on purpose is one of these; anything else that escapes is
    reported as Internal.
    """

    def __init__(
        self, category: Category, message: str, hint: str = "", exit_code: ExitCode | None = None
    ) -> None:
        super().__init__(message)
        entry = CATALOGUE[category]
        self.category = category
        self.message = message
        self.hint = hint or entry.cure
        """What to change; where nothing more is known, the cure of the category."""
        self.exit_code = exit_code or entry.exit_code or ExitCode.INTERNAL
        """With which a process ends because of this error; by default the category's."""

    @property
    def hint_here(self) -> str:
        """The hint for a person at a command line."""
        entry = CATALOGUE[self.category]
        return entry.cure_here or entry.cure if self.hint == entry.cure else self.hint


PERMANENT_EXIT_CODES: tuple[int, ...] = tuple(
    sorted(
        {int(ExitCode.USAGE)}
        | {
            int(entry.exit_code)
            for entry in CATALOGUE.values()
            if entry.permanent and entry.exit_code is not None
        }
    )
)
"""Exit codes after which the Job ends at once, without another attempt."""
