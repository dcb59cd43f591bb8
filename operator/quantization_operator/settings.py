"""Every knob of the operator: environment variable, flag, default and unit in one table.

`QUANTIZATION_OPERATOR_<NAME>` in the environment or `--<name>` on the command line; the flag wins.
`python -m quantization_operator.settings` prints the reference page.
"""

import math
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from quantization_api.input_paths import PATH_PATTERN

ENV_PREFIX = "QUANTIZATION_OPERATOR_"


class OperatorSettings(BaseSettings):
    """Settings of one operator process; read once at start."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, cli_kebab_case=True, cli_prog_name="quantization-operator", frozen=True
    )

    quantizer_image: str = Field(
        "quantizer:dev", min_length=1, description="Image of the quantizer, for jobs that name none."
    )
    legacy_image: str = Field(
        "quantizer-legacy:dev",
        min_length=1,
        description="Image of the quantizer with auto-gptq and autoawq, for jobs that name none and have a pass "
        "with one of them as its implementation.",
    )
    default_calibration: str = Field(
        "",
        pattern=f"^$|{PATH_PATTERN}",
        description="Text (s3://BUCKET/KEY, or a path in the pod) to calibrate with when a pass names no data_config; "
        "read with the job's own storage access. Empty: such a pass fails with DataNotFound.",
    )
    namespaces: list[str] = Field(
        default_factory=list,
        description="Namespaces to serve, as a JSON list; empty: all. The operator needs no permissions in others.",
    )
    allowed_images: list[str] | None = Field(
        None,
        description="Images that spec.template.image and image volumes may name, as a JSON list; an entry that ends "
        "in * is a prefix. Unset: any; []: none, so that every job runs the images above.",
    )
    allowed_service_accounts: list[str] | None = Field(
        None,
        description="What spec.template.serviceAccountName may name, as a JSON list; an entry that ends in * is a "
        "prefix. Unset: any; []: none.",
    )
    allowed_secrets: list[str] | None = Field(
        None,
        description="Secrets that spec.storage.credentialsSecret and spec.template (imagePullSecrets, env, envFrom, "
        "volumes, trustedCertificates) may name, as a JSON list; an entry that ends in * is a prefix. Unset: any; "
        "[]: none. By label instead: deploy/policies.",
    )
    allowed_variables: list[str] | None = Field(
        None,
        description="Environment variables that spec.template.env may set, and prefixes of envFrom (HF_*), as a JSON "
        "list; an entry that ends in * is a prefix. Unset: any; but where allowed_images is set, only those that are "
        "known to load no code, such as HF_TOKEN, NCCL_* and OMP_NUM_THREADS.",
    )
    refuse_link_local_endpoints: bool = Field(
        True,
        description="Refuse a spec.storage.endpoint at a link-local address or another one where clouds serve instance "
        "metadata. The operator checks addresses; the pod checks what a name resolves to.",
    )
    defaults_file: str = Field(
        "",
        description="File of the cluster's defaults and classes of resources (docs/defaults.md), read again when it "
        "changes; no defaults if there is none. deploy/base mounts the ConfigMap quantization-defaults.",
    )
    scratch_size: str = Field("10Gi", description="Size limit of /scratch, for jobs that set none.")
    image_pull_patience_seconds: PositiveFloat = Field(
        120, description="How long to keep trying an image that cannot be pulled before the job fails."
    )
    start_patience_seconds: PositiveFloat = Field(
        45,
        description="How long to keep trying a container that cannot start (a missing Secret or volume, a pod that "
        "admission rejects) before the job fails.",
    )
    unschedulable_patience_seconds: PositiveFloat | None = Field(
        None,
        description="How long a pod may wait for a node or for quota before the job fails; unset: forever.",
    )
    cleanup_deadline_seconds: PositiveFloat = Field(
        600,
        description="With artifactPolicy: Delete, how long the Job of a deleted object may take to stop, and then how "
        "long removing the artifact may take, before the object is released and an event says what was left behind; "
        "also how long both are retried while the API server rejects them.",
    )
    progress_interval_seconds: Annotated[float, Field(ge=1)] = Field(
        5, description="Minimum time between two progress reports of a job."
    )
    progress_polls_per_second: PositiveFloat = Field(
        20, description="Maximum number of progress requests to pods per second."
    )
    sweep_interval_seconds: Annotated[float, Field(ge=5)] = Field(
        120,
        description="Time between two comparisons of the cache with the API server; longer if there are more than 100 "
        "objects for each of these seconds.",
    )
    sync_timeout_seconds: PositiveFloat = Field(
        120, description="How long the first listing may take before the process exits and is restarted."
    )
    workers: PositiveInt = Field(16, description="Number of jobs reconciled at the same time.")
    api_threads: PositiveInt = Field(
        16, description="Number of requests to the API server in flight at the same time."
    )
    api_timeout_seconds: PositiveFloat = Field(15, description="Timeout of one request to the API server.")
    lease_namespace: str = Field(
        "",
        description="Namespace of the Lease by which replicas elect a leader. Empty: no election, for a single process "
        "such as one outside the cluster. deploy/base sets it to the operator's own namespace.",
    )
    lease_name: str = Field(
        "quantization-operator-leader",
        min_length=1,
        description="Name of the Lease; the same for all replicas that serve the same namespaces.",
    )
    lease_duration_seconds: PositiveInt = Field(
        15,
        description="How long the other replicas wait before they take the lease from a leader that does not renew it.",
    )
    lease_renew_deadline_seconds: PositiveFloat = Field(
        10,
        description="How long after its last renewal a leader still writes; then it exits. Must be shorter than the "
        "duration: the rest is for requests in flight.",
    )
    lease_interval_seconds: PositiveFloat = Field(
        1.5,
        description="Time between two renewals by the leader, and between two checks by the others; at most a third "
        "of the renew deadline.",
    )
    http_host: str = Field(
        "127.0.0.1",
        description="Address to serve /metrics, /healthz and /readyz on; in a pod, the pod's address.",
    )
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8081, description="Port of /metrics, /healthz and /readyz; 0: a free port, which is logged."
    )
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR."
    )

    @field_validator("lease_renew_deadline_seconds")
    @classmethod
    def _before_the_lease_ends(cls, value: float, info: ValidationInfo) -> float:
        duration = info.data.get("lease_duration_seconds", math.inf)
        if value >= duration:
            raise ValueError(f"must be less than lease_duration_seconds, {duration} s")
        return value

    @field_validator("lease_interval_seconds")
    @classmethod
    def _several_tries(cls, value: float, info: ValidationInfo) -> float:
        deadline = info.data.get("lease_renew_deadline_seconds", math.inf)
        if value > deadline / 3:
            raise ValueError(f"must be at most a third of lease_renew_deadline_seconds, {deadline} s")
        return value


def reference_page() -> str:
    """The settings as a page in Markdown."""
    lines = [
        "# Settings of the operator",
        "",
        "Generated by `python -m quantization_operator.settings`; do not edit.",
        "",
        "| environment variable | flag | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in OperatorSettings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "unset" if default is None else f"`{default}`" if default != "" else "empty"
        lines.append(
            f"| `{ENV_PREFIX}{name.upper()}` | `--{name.replace('_', '-')}` | {shown} | {field.description} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference_page(), end="")
