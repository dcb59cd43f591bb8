"""The images as OCI archives, which `skopeo copy` and `ctr images import` read where no registry is shared."""

from pathlib import Path

from local_cluster import images
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import run
from quantization_api import ENGINE_VERSION

RELEASED = ("operator", "quantizer", "legacy")


def write(directory: Path, progress: Progress) -> list[Path]:
    """Build what is not built yet, and write one archive for each image of the release.

    Raises:
        ClusterError: not root, or a build or a copy failed.
    """
    settings, paths = Settings.from_environment(), []
    references = images.ensure(settings, RELEASED, progress)
    with images.registry(settings):
        for name in RELEASED:
            repository = images.RECIPES[name].repository
            path = directory / f"{repository}-{ENGINE_VERSION}.oci.tar"
            run(
                *("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{references[name]}"),
                f"oci-archive:{path}:{repository}:{ENGINE_VERSION}",
            )
            paths.append(path)
    return paths
