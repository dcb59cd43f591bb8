"""Where and how a job runs: outputs, storage, templates and limits that must be refused."""

from tests.support.invalid import Invalid, bad
from tests.support.manifests import REMOVED, VANISHING, claimed, configured, nested

INVALID_JOBS: tuple[Invalid, ...] = (
    bad("unknown spec field", "retries", 3, 'unknown field "spec.retries"'),
    bad("unknown template field", "template.gpus", 1, 'unknown field "spec.template.gpus"'),
    bad("a class in capitals", "resourceClass", "8B", "spec.resourceClass", "must match"),
    bad("no output", "output", REMOVED, "spec.output: Required", "Field required"),
    bad("output without a bucket", "output.uri", "s3:///stories", "output.uri must be s3://BUCKET/PREFIX"),
    bad("output without a prefix", "output.uri", "s3://artifacts", "output.uri must be s3://BUCKET/PREFIX"),
    bad("output on a hub", "output.uri", "hf://me/model", "output.uri must be s3://BUCKET/PREFIX"),
    bad(
        "output that vanishes",
        "output.uri",
        "file:///tmp/out",
        "a file:// output must be on a writable claim",
        None,
    ),
    bad(
        "endpoint without a scheme",
        "storage.endpoint",
        "s3.example.com:9000",
        "storage.endpoint must be http(s)://HOST",
    ),
    bad("secret of another namespace", "storage.credentialsSecret.namespace", "x", "unknown field"),
    bad("secret in the manifest", "storage.accessKey", "AKIA", 'unknown field "spec.storage.accessKey"'),
    bad("suspend in words", "suspend", "yes", "must be of type boolean", None),
    bad("time to live before the end", "ttlSecondsAfterFinished", -1, "greater than or equal to 0"),
    bad("managed by a word", "managedBy", "kueue", "spec.managedBy", "must match"),
    bad("unknown policy", "artifactPolicy", "Keep", "Unsupported value", "must be 'Retain'"),
    bad("negative retries", "backoffLimit", -1, "greater than or equal to 0"),
    bad("no time", "activeDeadlineSeconds", 0, "greater than or equal to 1"),
    bad(
        "volume without a source",
        "template.volumes",
        [{"name": "m", "mountPath": "/models"}],
        "exactly one of persistentVolumeClaim, configMap",
    ),
    *(
        bad(
            f"volume at {path!r}",
            "template.volumes",
            [configured(path)],
            "mountPath must be an absolute path",
        )
        for path in (
            "/",
            "models",
            "//scratch",
            "/./scratch",
            "/data/../scratch",
            "/data/..",
            "/data/",
            "/a:b",
        )
    ),
    *(
        bad(
            f"volume over {path}",
            "template.volumes",
            [configured(path)],
            "mountPath must not be inside or above",
        )
        for path in (
            "/scratch",
            "/scratch/m",
            "/opt",
            "/opt/app/quantizer",
            "/usr/lib",
            "/etc",
            "/var/run/secrets",
        )
    ),
    *(
        bad(f"output {uri}", "output.uri", uri, "output.uri must be s3://BUCKET/PREFIX")
        for uri in (
            "file:///out/../scratch/x",
            "file:////scratch/x",
            "file:///./scratch",
            "s3://artifacts/../models/x",
            "s3://artifacts/a//b",
            "s3://artifacts/a/.",
        )
    ),
    bad(
        "a volume named as scratch",
        "template.volumes",
        [claimed("/data") | {"name": "quantizer-scratch"}],
        "the name quantizer-scratch belongs to the scratch volume",
    ),
    bad(
        "two volumes at one place",
        "template.volumes",
        [claimed("/data"), configured("/data")],
        "two volumes have the same mountPath",
    ),
    Invalid(
        "a line break in the output", (("output.uri", "s3://artifacts/a\nb"),), "should match", "must match"
    ),
    *(
        Invalid(
            f"output {uri} with volumes {[volume['mountPath'] for volume in volumes]}",
            (("output.uri", uri), ("template.volumes", volumes)),
            "a file:// output must be on a writable claim",
            None,
        )
        for uri, volumes in VANISHING
    ),
    *(
        bad(f"endpoint {url}", "storage.endpoint", url, "storage.endpoint must be http(s)://HOST")
        for url in (
            "http://user:secret@s3.example.com",
            "http://s3.example.com/path",
            "http://s3.example.com?x=1",
            "http://s3.example.com#x",
            "http://s3.example.com:port",
            "http://s3 example.com",
            "http://",
        )
    ),
    bad(
        "memory in words",
        "template.resources",
        {"limits": {"memory": "lots"}},
        "should match",
        'must be a whole number, or an amount such as "500m" or "16Gi"',
    ),
    bad("a long amount", "template.scratchSize", "1" * 33, "Too long", "at most 32 characters"),
    bad(
        "a long key",
        "template.nodeSelector",
        {"k" * 318: "v"},
        "a key may have 317",
        "at most 317 characters",
    ),
    bad("no affinity", "template.affinity", {"nodeAffinity": {"nonsense": 1}}, "unknown field"),
    bad("deep affinity", "template.affinity", {"nodeAffinity": nested(50)}, "unknown field"),
)
"""Of all beside the workflow."""
