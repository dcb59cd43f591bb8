"""The model builder in a process of its own: `python -m quantizer.export.builder_process REQUEST`.

REQUEST is one JSON object: checkpoint, target, cache (directories), precision, execution_provider and
options (see plan.BuildPlan.options). The last line that is printed is {"peak_bytes": ...}, the most
memory the process held.
"""

import json
import resource
import sys
from typing import Any

from onnxruntime_genai.models.builder import check_extra_options, create_model


def build(request: dict[str, Any]) -> None:
    """Writes the graph, its data, genai_config.json and the tokenizer into the target directory."""
    options = request["options"]
    arguments = (
        "",  # no name on a hub: the model is the directory
        request["checkpoint"],
        request["target"],
        request["precision"],
        request["execution_provider"],
        request["cache"],
    )
    check_extra_options(*arguments, options)
    create_model(*arguments, **options)


def main() -> None:
    """One build, as the command line asks for it."""
    build(json.loads(sys.argv[1]))
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
