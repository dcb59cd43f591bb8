"""An image that is built twice from the same sources, with nothing kept from the first time, has the same digest."""

from typing import Any

import pytest

from local_cluster import base_image, images
from local_cluster.containers import Containers

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

TIMELESS = [name for name, recipe in images.RECIPES.items() if recipe.timeless]


def test_the_operators_image_is_one_of_them() -> None:
    assert "operator" in TIMELESS


@pytest.mark.parametrize("name", TIMELESS)
def test_two_builds_have_one_digest(name: str, whole: Any) -> None:
    settings, recipe = whole.settings, images.RECIPES[name]
    containers, base = Containers(settings), base_image.choose()
    digests = set()
    with images.registry(settings):
        for number in (1, 2):
            local = f"localhost/{recipe.repository}:dev"
            with images.build_options(settings, recipe, base) as options:
                containers.build(
                    local, images.ROOT / recipe.containerfile, images.ROOT, [*options, "--no-cache"]
                )
            digests.add(containers.push(local, f"{settings.registry}/twice/{recipe.repository}:{number}"))
    assert len(digests) == 1
