"""The pod of a Job, from the template of a QuantizationJob: pure.

What a user chose is passed on; what the contract between operator and pod rests on is written here and nowhere else.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from quantization_api.environment import CERTIFICATE_PATH, CERTIFICATE_VARIABLES, Proxy, TrustedCertificates
from quantization_api.pod import CONTAINER_NAME, SCRATCH_PATH
from quantization_api.rules import KubernetesModel
from quantization_api.spec import QuantizationJobSpec
from quantization_api.template import PodTemplate, SecurityContext
from quantization_api.volumes import CERTIFICATES_VOLUME, SCRATCH_VOLUME, MountedVolume
from quantization_operator.settings import OperatorSettings

USER_ID = 65532
GRACE_SECONDS = 60
"""Between SIGTERM and SIGKILL: time to finish writing a layer."""
AS_THEY_ARE = (
    *("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints"),
    *("priorityClassName", "schedulerName", "runtimeClassName", "serviceAccountName", "hostAliases"),
)
"""Fields of the template that are the pod's own, in the words of core/v1."""

Manifest = dict[str, Any]


def pod(spec: QuantizationJobSpec, settings: OperatorSettings, work: Manifest) -> Manifest:
    """A restricted pod as the template asks for. work: what its container does, and its resources."""
    template = spec.template
    chosen = as_kubernetes(template)
    claims = {"resourceClaims": chosen["resourceClaims"]} if work.get("resources", {}).get("claims") else {}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds or GRACE_SECONDS,
        "securityContext": _security(template.security_context),
        **{field: chosen[field] for field in AS_THEY_ARE if chosen.get(field)},
        **claims,
        "containers": [_container(spec, settings) | work],
        "volumes": list(_volumes(template, settings)),
    }


def environment(template: PodTemplate, own: Iterable[Manifest]) -> dict[str, list[Manifest]]:
    """The variables of the container, each once: the operator's own win, then those that the template names."""
    chosen = as_kubernetes(template)
    given = [*_of_proxy(template.proxy), *_of_certificates(template.trusted_certificates)]
    named = [*given, *map(_plain, chosen.get("env", ())), *own]
    sources = chosen.get("envFrom")
    made = {"env": list({entry["name"]: entry for entry in named}.values())}
    return made | ({"envFrom": sources} if sources else {})


def as_kubernetes(model: KubernetesModel) -> Manifest:
    """A part of the contract that is in the words of core/v1, as JSON data: what was written, and nothing besides."""
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def _plain(entry: Mapping[str, Any]) -> Manifest:
    """Kubernetes expands $(NAME) in a value, also to secrets; $$ is a dollar."""
    return {**entry, "value": entry["value"].replace("$", "$$")} if "value" in entry else dict(entry)


def _of_proxy(proxy: Proxy | None) -> list[Manifest]:
    """In capitals and without: programs differ in which they read."""
    if proxy is None:
        return []
    given = {"http_proxy": proxy.http_proxy, "https_proxy": proxy.https_proxy, "no_proxy": proxy.no_proxy}
    names = ((name, value) for key, value in given.items() if value for name in (key.upper(), key))
    return [_plain({"name": name, "value": value}) for name, value in names]


def _of_certificates(trusted: TrustedCertificates | None) -> list[Manifest]:
    return [] if trusted is None else [{"name": n, "value": CERTIFICATE_PATH} for n in CERTIFICATE_VARIABLES]


def _security(chosen: SecurityContext | None) -> Manifest:
    """User and groups as chosen, or the image's own, or none where the platform chooses them."""
    given = as_kubernetes(chosen) if chosen else {}
    platform = given.pop("platformChoosesUser", False)
    ids = {} if platform else dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), USER_ID)
    return {
        "runAsNonRoot": True,
        **ids,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        **given,
    }


def _container(spec: QuantizationJobSpec, settings: OperatorSettings) -> Manifest:
    template = spec.template
    pull = {"imagePullPolicy": template.image_pull_policy} if template.image_pull_policy else {}
    return {
        "name": CONTAINER_NAME,
        "image": template.image or _image(spec, settings),
        **pull,
        # Of a crash that leaves no result, the tail of the log is the only evidence that is seen without log access.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": list(_mounts(template)),
    }


def _image(spec: QuantizationJobSpec, settings: OperatorSettings) -> str:
    """The stock packages need libraries that the native engine cannot live with: they have an image of their own."""
    used = {getattr(item, "implementation", "native") for item in spec.workflow.passes}
    return settings.quantizer_image if used == {"native"} else settings.legacy_image


def _mounts(template: PodTemplate) -> Iterable[Manifest]:
    yield {"name": SCRATCH_VOLUME, "mountPath": SCRATCH_PATH}
    if template.trusted_certificates is not None:
        folder = CERTIFICATE_PATH.rpartition("/")[0]
        yield {"name": CERTIFICATES_VOLUME, "mountPath": folder, "readOnly": True}
    for volume in template.volumes:
        read_only = {"readOnly": True} if volume.read_only else {}
        yield {"name": volume.name, "mountPath": volume.mount_path, **read_only}


def _volumes(template: PodTemplate, settings: OperatorSettings) -> Iterable[Manifest]:
    scratch = str(template.scratch_size or settings.scratch_size)
    yield {"name": SCRATCH_VOLUME, "emptyDir": {"sizeLimit": scratch}}
    if (trusted := template.trusted_certificates) is not None:
        yield {"name": CERTIFICATES_VOLUME, **_certificates(trusted)}
    yield from map(_volume, template.volumes)


def _certificates(trusted: TrustedCertificates) -> Manifest:
    items = {"items": [{"key": trusted.key, "path": CERTIFICATE_PATH.rpartition("/")[2]}]}
    if trusted.config_map is not None:
        return {"configMap": as_kubernetes(trusted.config_map) | items}
    given = as_kubernetes(trusted)["secret"]
    return {"secret": {"secretName": given.pop("name")} | given | items}


def _volume(volume: MountedVolume) -> Manifest:
    """The source as it was written; a claim that is only read is told so, since some storage attaches it otherwise."""
    source = as_kubernetes(volume)
    del source["mountPath"]
    read_only = source.pop("readOnly", False)
    if read_only and "persistentVolumeClaim" in source:
        source["persistentVolumeClaim"]["readOnly"] = True
    for part in source.get("projected", {}).get("sources", ()):
        for file in part.get("downwardAPI", {}).get("items", ()):
            if (
                "resourceFieldRef" in file
            ):  # a volume belongs to no container, so Kubernetes asks whose resources
                file["resourceFieldRef"]["containerName"] = CONTAINER_NAME
    return source
