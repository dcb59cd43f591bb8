"""What the demo shows at its end: quality with its goals, and how to open the report."""

import io
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from local_cluster.demo import farewell
from local_cluster.demo_report import Report, sections

pytestmark = pytest.mark.unit

CARD = """---
tags: [gptq]
---

# A model

## Quality

| metric | goal | input model | this model |
|---|---|---:|---:|
| perplexity | at most 10 % worse | 7.243 | 7.630 |

## Recipe

```yaml
bits: 4
```

## Read by

- transformers
"""


def test_the_cards_figures_are_shown_with_their_goals_and_nothing_else() -> None:
    assert sections(CARD, ("Quality", "Read by")).count("## ") == 2
    shown = io.StringIO()
    Report(Console(file=shown, width=160)).card(CARD)
    for words in ("at most 10 % worse", "7.630", "transformers"):
        assert words in shown.getvalue()
    assert "bits: 4" not in shown.getvalue()
    assert "tags" not in shown.getvalue()


@pytest.mark.parametrize("is_local", [True, False])
def test_the_report_is_a_link_that_a_browser_opens(is_local: bool) -> None:
    class Kubectl:
        program = "/bin/kubectl"

    class Target:
        kubectl, kubeconfig = Kubectl(), "/config"

    said = farewell(cast("Any", Target()), is_local, Path("/a folder/report.html"))
    assert "file:///a%20folder/report.html" in said
