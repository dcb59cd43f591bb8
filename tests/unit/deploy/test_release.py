"""What a release says of itself: one version everywhere, and a list of packages that is the lock files'."""

import json
import re

import pytest
from packaging.requirements import Requirement

from deploy.release import chart, sbom
from deploy.release.__main__ import described, tag_problem
from deploy.release.archives import RELEASED
from deploy.release.manifests import Images
from local_cluster.images import RECIPES, ROOT
from quantization_api import ENGINE_VERSION

pytestmark = pytest.mark.unit

LOCK = """\
one==1.0 ; sys_platform == 'linux' \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
# a remark
Two_Words==2.0
other==3.0 ; sys_platform == 'win32'
old==4.0 ; python_full_version < '3.12'
old==5.0 ; python_full_version >= '3.12'
""".format(a="a" * 64, b="b" * 64)


def test_the_schema_of_the_charts_values_is_fresh() -> None:
    assert (ROOT / "deploy/chart/values.schema.json").read_text() == chart.values_schema(), (
        "run make generate"
    )


def test_the_list_has_what_the_images_python_installs_and_nothing_else() -> None:
    found = {each["purl"]: each for each in sbom.components(LOCK)}
    assert set(found) == {"pkg:pypi/one@1.0", "pkg:pypi/two-words@2.0", "pkg:pypi/old@4.0"}
    assert [each["value"][0] for each in found["pkg:pypi/one@1.0"]["properties"]] == ["a", "b"]


@pytest.mark.parametrize("image", RELEASED)
def test_every_locked_package_of_an_image_is_in_its_list_once(image: str) -> None:
    document = json.loads(sbom.of_image(image))
    purls = [each["purl"] for each in document["components"]]
    assert len(set(purls)) == len(purls)
    assert all(re.fullmatch(r"pkg:pypi/[a-z0-9-]+@\S+", purl) for purl in purls)
    assert document["metadata"]["component"]["version"] == ENGINE_VERSION
    assert document["dependencies"][0]["dependsOn"] == [each["bom-ref"] for each in document["components"]]
    names = {each["name"] for each in document["components"]}
    for source in RECIPES[image].sources:
        if source.startswith("requirements/") and "installer" not in source:
            lines = (ROOT / source).read_text().splitlines()
            pinned = [Requirement(line.rstrip(" \\")) for line in lines if re.match(r"[A-Za-z0-9]", line)]
            assert {each.name for each in pinned if not each.marker} <= names
    assert sbom.of_image(image) == sbom.of_image(image)


def test_the_lists_python_is_that_of_the_images() -> None:
    for image in RELEASED:
        text = (ROOT / RECIPES[image].containerfile).read_text()
        assert f"python:{sbom.PYTHON}-" in text


def test_a_version_that_the_changelog_does_not_describe_is_no_release() -> None:
    assert described((ROOT / "CHANGELOG.md").read_text(), ENGINE_VERSION)
    assert not described("## 1.0.0\n\nnew\n", "2.0.0")
    assert not described("## 2.0.0\n\n## 1.0.0\n\nnew\n", "2.0.0")


@pytest.mark.parametrize(
    ("tags", "refused"), [("", False), ("v1.2.3", False), ("nightly", False), ("v1.2.2", True)]
)
def test_a_commit_with_another_versions_tag_is_no_release(tags: str, refused: bool) -> None:
    problem = tag_problem(tags, "1.2.3")
    assert bool(problem) is refused
    assert not problem or "v1.2.2, and ENGINE_VERSION is 1.2.3" in problem


@pytest.mark.parametrize(
    ("registry", "reference"),
    [("", "quantizer:1.2.3"), ("host/team", "host/team/quantizer:1.2.3"), ("host/", "host/quantizer:1.2.3")],
)
def test_images_are_named_by_registry_and_version(registry: str, reference: str) -> None:
    assert Images(registry, "1.2.3").reference("quantizer") == reference
