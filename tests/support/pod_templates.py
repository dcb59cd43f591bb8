"""Pod templates that are taken, and those that are refused with what to write instead."""

from typing import Any

from tests.support.invalid import Invalid, bad

VOLUMES: list[dict[str, Any]] = [
    {"name": "models", "mountPath": "/models", "persistentVolumeClaim": {"claimName": "models"}},
    {
        "name": "text",
        "mountPath": "/text",
        "configMap": {"name": "text", "items": [{"key": "a", "path": "en/a.txt"}], "optional": True},
    },
    {
        "name": "hub",
        "mountPath": "/hub",
        "readOnly": True,
        "secret": {
            "secretName": "hub",
            "defaultMode": 288,
            "items": [{"key": "t", "path": "t", "mode": 256}],
        },
    },
    {"name": "memory", "mountPath": "/memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    {
        "name": "both",
        "mountPath": "/both",
        "projected": {
            "defaultMode": 292,
            "sources": [
                {"configMap": {"name": "text"}},
                {"secret": {"name": "hub", "items": [{"key": "t", "path": "token"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
                            {"path": "memory", "resourceFieldRef": {"resource": "limits.memory"}},
                        ]
                    }
                },
            ],
        },
    },
    {
        "name": "driver",
        "mountPath": "/driver",
        "csi": {
            "driver": "secrets-store.csi.k8s.io",
            "readOnly": True,
            "volumeAttributes": {"secretProviderClass": "models"},
        },
    },
    {
        "name": "image",
        "mountPath": "/image",
        "image": {"reference": "registry.example/models/llama:1", "pullPolicy": "IfNotPresent"},
    },
]
"""One of each kind."""

WHOLE: dict[str, Any] = {
    "labels": {"cost-center": "research"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "env": [
        {"name": "HF_HOME", "value": "/models/$(HOME)"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "t", "optional": True}}},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "text", "key": "a"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {
            "name": "MIB",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
        },
    ],
    "envFrom": [
        {"prefix": "TEAM_", "configMapRef": {"name": "team", "optional": True}},
        {"prefix": "HUB_", "secretRef": {"name": "hub"}},
    ],
    "proxy": {"httpsProxy": "http://proxy.example:3128", "noProxy": ".svc,.cluster.local"},
    "trustedCertificates": {"configMap": {"name": "company-ca"}, "key": "bundle.pem"},
    "resources": {
        "requests": {"cpu": 1, "ephemeral-storage": "20Gi"},
        "limits": {"memory": "16Gi"},
        "claims": [{"name": "gpu", "request": "one"}],
    },
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    "securityContext": {
        "runAsUser": 1000650000,
        "runAsGroup": 0,
        "fsGroup": 1000650000,
        "fsGroupChangePolicy": "Always",
        "supplementalGroups": [1000650001],
        "seLinuxOptions": {"level": "s0:c25,c15"},
    },
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"cost-center": "research"}},
            "nodeTaintsPolicy": "Honor",
        }
    ],
    "hostAliases": [{"ip": "10.0.0.7", "hostnames": ["s3.example.com"]}],
    "terminationGracePeriodSeconds": 300,
    "volumes": VOLUMES,
}
"""Every field but those that there were before, with the values that users have."""


def _refused(field: str, value: Any, sentence: str) -> Invalid:
    return bad(f"template.{field}: {value}", f"template.{field}", value, sentence)


def _volume(**source: Any) -> list[dict[str, Any]]:
    return [{"name": "v", "mountPath": "/v", **source}]


INVALID_TEMPLATES: tuple[Invalid, ...] = (
    _refused("hostNetwork", True, "hostNetwork: pods of jobs are restricted"),
    _refused("hostPID", True, "hostPID: pods of jobs are restricted"),
    _refused("privileged", True, "privileged: pods of jobs are restricted"),
    _refused("command", ["sh"], "command: what is run is the quantizer"),
    _refused("args", ["-c", "id"], "args: what is run is the quantizer"),
    _refused("restartPolicy", "OnFailure", "restartPolicy: the Job makes a new pod for each attempt"),
    _refused("containers", [{"name": "quantizer"}], "containers: the pod has one container"),
    _refused("initContainers", [{"name": "get"}], "initContainers: the pod has one container"),
    _refused("spec", {"containers": []}, "spec: write the fields of the pod directly into template"),
    _refused("metadata", {"labels": {}}, "metadata: write labels and annotations directly into template"),
    _refused("activeDeadlineSeconds", 60, "activeDeadlineSeconds: write it into spec"),
    _refused("automountServiceAccountToken", True, "carry no token of Kubernetes"),
    _refused("nodeName", "node-1", "nodeName: write nodeSelector or affinity"),
    _refused("labels", {"quantization.dev/job-uid": "x"}, "labels must not begin with quantization.dev/"),
    _refused("labels", {"app.kubernetes.io/name": "x"}, "labels must not begin with quantization.dev/"),
    _refused("annotations", {"batch.kubernetes.io/x": "1"}, "annotations must not begin with"),
    _refused("securityContext", {"runAsUser": 0}, "runAsUser must not be 0"),
    _refused("securityContext", {"runAsNonRoot": False}, "runAsNonRoot: pods of jobs are restricted"),
    _refused("securityContext", {"capabilities": {"add": ["ALL"]}}, "capabilities: pods of jobs are"),
    _refused(
        "securityContext", {"seccompProfile": {"type": "Unconfined"}}, "seccompProfile: pods of jobs are"
    ),
    _refused("securityContext", {"sysctls": [{"name": "a", "value": "b"}]}, "sysctls: pods of jobs are"),
    _refused(
        "securityContext", {"seLinuxOptions": {"level": "s0", "type": "spc_t"}}, "type: pods of jobs are"
    ),
    _refused(
        "securityContext",
        {"platformChoosesUser": True, "fsGroup": 7},
        "platformChoosesUser leaves user and groups to the platform",
    ),
    *(
        _refused("env", [{"name": name, "value": "x"}], "env must not set PATH, HOME")
        for name in ("PATH", "PYTHONPATH", "LD_PRELOAD", "QUANTIZATION_REQUEST", "AWS_ACCESS_KEY_ID")
    ),
    _refused("env", [{"name": "A"}], "a variable needs exactly one of value and valueFrom"),
    _refused(
        "env",
        [{"name": "A", "valueFrom": {}}],
        "valueFrom needs exactly one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef",
    ),
    *(
        _refused(
            "envFrom",
            [{"prefix": prefix, "secretRef": {"name": "s"}}],
            "envFrom needs a prefix that ends in _",
        )
        for prefix in ("", "LD_", "PYTHON_", "AWS_", "HF", "1_", "é_")
    ),
    _refused("envFrom", [{"prefix": "A_"}], "envFrom needs exactly one of configMapRef and secretRef"),
    _refused(
        "trustedCertificates",
        {"key": "ca.crt"},
        "trustedCertificates needs exactly one of configMap and secret",
    ),
    _refused(
        "resourceClaims",
        [{"name": "gpu"}],
        "a resource claim needs exactly one of resourceClaimName and resourceClaimTemplateName",
    ),
    _refused("terminationGracePeriodSeconds", 0, "greater than or equal to 1"),
    _refused(
        "volumes", _volume(hostPath={"path": "/"}), "hostPath: pods of jobs do not see files of the node"
    ),
    _refused("volumes", _volume(nfs={"server": "n"}), "nfs: make a PersistentVolume of the server"),
    _refused("volumes", _volume(ephemeral={}), "ephemeral: make a claim, or write emptyDir"),
    _refused("volumes", _volume(), "a volume needs exactly one of persistentVolumeClaim, configMap, secret"),
    _refused(
        "volumes",
        _volume(emptyDir={}, secret={"secretName": "s"}),
        "a volume needs exactly one of persistentVolumeClaim, configMap, secret",
    ),
    _refused(
        "volumes",
        [{"name": "quantizer-certificates", "mountPath": "/v", "emptyDir": {}}],
        "quantizer-certificates to trustedCertificates",
    ),
    *(
        _refused(
            "volumes",
            _volume(configMap={"name": "c", "items": [{"key": "k", "path": path}]}),
            "a path inside a volume must be relative",
        )
        for path in ("/a", "../a", "a/../b", "a//b", ".")
    ),
    _refused(
        "volumes",
        _volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]}),
        "serviceAccountToken: pods of jobs carry no token of Kubernetes",
    ),
    _refused(
        "volumes",
        _volume(projected={"sources": [{}]}),
        "a source of a projected volume needs exactly one of configMap, secret and downwardAPI",
    ),
)
